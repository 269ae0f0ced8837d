"""A checkpoint's folder, run by transformers on torch: the only place here that needs them.

Texts are read and answers made as in the engine; only the numbers come from torch. What transformers cannot
run (attention to both sides, a bag of n-grams, transitions of slots) is run as the fp32 graph that export
makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.checkpoint.config import Head, ModelConfig, read_config
from export.checkpoint.tokenizer import read_tokenizer
from export.pipeline import export_checkpoint
from export.verification.oracles import load_module
from runtime.contract import TOKENIZER_FILE, HeadGraph, Variant
from runtime.heads import HeadModel
from runtime.manifest import FileEntry, Manifest
from runtime.text import as_served
from train.evaluation.artifact import LocalHead, open_artifact, required_separator
from train.evaluation.process import ProcessMeter
from train.evaluation.target import Description, Floats, LanguageTarget, Target, Usage


@contextmanager
def open_checkpoint(folder: Path, threads: int) -> Iterator[Target]:
    """Raises CheckpointError, Unavailable."""
    config = read_config(folder)
    about = Description(
        str(folder),
        "checkpoint",
        config.head.kind,
        config.problem_type,
        config.labels,
        "fp32",
        size=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
    )
    if config.bidirectional or config.ngrams is not None or config.slot_transitions:
        with _exported(folder, about, threads) as target:
            yield target
        return
    before, meter = torch.get_num_threads(), ProcessMeter()
    torch.set_num_threads(threads)
    try:
        yield _open(folder, config, about, meter)
    finally:
        torch.set_num_threads(before)


@contextmanager
def _exported(folder: Path, about: Description, threads: int) -> Iterator[Target]:
    with TemporaryDirectory(prefix="lmaas-evaluate-") as scratch:
        artifact = Path(scratch) / "artifact"
        export_checkpoint(folder, artifact, name=folder.name, variants=[Variant.FP32])
        with open_artifact(artifact, None, threads) as target:
            target.about = replace(about, method="run as the fp32 graph of its export")
            yield target


def _open(folder: Path, config: ModelConfig, about: Description, meter: ProcessMeter) -> Target:
    model = load_module(folder, config)
    tokenizer = as_served(read_tokenizer(folder, config)[0])
    if config.head is Head.LM:
        return CheckpointLanguage(about, model, tokenizer, config, meter)
    manifest = Manifest(
        name=folder.name,
        kind=config.head.kind,
        architecture=config.architecture,
        tokenizer=FileEntry(TOKENIZER_FILE, 0, ""),
        variants={},
        labels=config.labels,
        slot_labels=config.slot_labels,
        nlu_echo=config.nlu_echo,
        problem_type=config.problem_type,
    )
    return LocalHead(about, HeadModel(manifest, tokenizer, TorchSession(model, config.head)), meter)


class TorchSession:
    """A head of torch with the interface of an ONNX session over `HeadGraph`."""

    def __init__(self, model: Any, head: Head) -> None:
        self._model = model
        self._head = head

    @torch.no_grad()
    def run(
        self, outputs: Sequence[str], inputs: Mapping[str, NDArray[np.int64]]
    ) -> list[NDArray[np.float32]]:
        rows, lengths = (torch.from_numpy(inputs[n]) for n in (HeadGraph.INPUT_IDS, HeadGraph.LENGTHS))
        found = self._logits(rows, (torch.arange(len(rows)), lengths - 1))
        return [found[name].float().numpy() for name in outputs]

    def _logits(self, rows: Tensor, last: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """`last` are the places of the last tokens: attention is causal, so padding does not count."""
        model = self._model
        hidden = model.transformer(rows, attention_mask=torch.ones_like(rows), use_cache=False)[0]
        if self._head is Head.SEQUENCE:
            return {HeadGraph.LOGITS: model.score(hidden[last])}
        if self._head is Head.TOKEN:
            none = torch.zeros(len(rows), 0)
            return {HeadGraph.LOGITS: none, HeadGraph.SLOT_LOGITS: model.classifier(hidden)}
        intents = model.intent_head(hidden[last])
        return {HeadGraph.LOGITS: intents, HeadGraph.SLOT_LOGITS: model.slot_head(hidden)}


class CheckpointLanguage(LanguageTarget):
    def __init__(
        self, about: Description, model: Any, tokenizer: Any, config: ModelConfig, meter: ProcessMeter
    ) -> None:
        self.about = about
        self.tokenizer = tokenizer
        self.context_length = config.context_length
        self.separator = required_separator(about.name, config.eos_token_id)
        self._model = model
        self._meter = meter

    @torch.no_grad()
    def logprobs(self, rows: Sequence[Sequence[int]]) -> list[Floats]:
        found = []
        for row in rows:
            ids = torch.tensor([list(row)])
            given, mask = ids[:, :-1], torch.ones_like(ids[:, :-1])
            logits = self._model(given, attention_mask=mask, use_cache=False).logits[0]
            scores = logits.float().log_softmax(dim=-1)
            found.append(scores.gather(1, ids[0, 1:, None])[:, 0].double().numpy())
        return found

    def usage(self) -> Usage:
        return self._meter.usage()
