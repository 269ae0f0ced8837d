"""Tiny random checkpoints of every kind, written by transformers, and sessions over their exports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2Model,
)

from export.verification.narrow import narrowed
from kernels.session import open_plain
from runtime.contract import LmGraph, Variant
from runtime.manifest import Manifest

VOCABULARY = 300
CONTEXT = 96
SENTENCES = ["the little cat sat on the mat and the dog ran home to its friend", "it rains a little today"]
Ids = list[int]
Module = TypeVar("Module", bound=torch.nn.Module)


def tiny_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 10,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def tiny_config(**changes: Any) -> GPT2Config:
    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "n_positions": CONTEXT,
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 2,
    }
    values |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "attn_implementation": "eager"}
    return GPT2Config(**(values | changes))


def random_model(make: Callable[..., Module], *arguments: Any, seed: int = 0) -> Module:
    """`make(*arguments)` with the same weights in every run, whatever was drawn before.

    They are large enough that every part of the model shows in the answer; biases and norms included.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = make(*arguments)
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.08)
    return model.eval()


def save_tokenizer(folder: Path) -> None:
    tiny_tokenizer().save(str(folder / "tokenizer.json"))


def save_lm(folder: Path, **changes: Any) -> GPT2LMHeadModel:
    model = random_model(narrowed(GPT2LMHeadModel), tiny_config(**changes))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def save_classifier(folder: Path, **changes: Any) -> GPT2ForSequenceClassification:
    model = random_model(
        narrowed(GPT2ForSequenceClassification), tiny_config(**({"num_labels": 3} | changes))
    )
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def save_reader(folder: Path, **changes: Any) -> None:
    """A classifier with this project's own parts: attention to both sides, and a bag of n-grams."""
    save_classifier(folder, **changes)
    _add_own_parts(folder, labels=3)


def save_pair_reader(folder: Path) -> None:
    """A `save_reader` whose bag compares two texts."""
    save_reader(folder)
    config = json.loads((folder / "config.json").read_text("utf-8")) | {
        "ngram_pairs": True,
        "pad_token_id": 299,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def _add_own_parts(folder: Path, labels: int) -> None:
    tensors = load_file(folder / "model.safetensors")
    bag = random_model(torch.nn.Linear, labels, 40, seed=40)
    tensors["ngrams.weight"] = bag.weight.detach().clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config |= {"attention": "bidirectional", "ngram_buckets": 40, "ngram_orders": [1, 2, 3, 4, 5]}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def save_tagger(folder: Path) -> GPT2ForTokenClassification:
    model = random_model(GPT2ForTokenClassification, tiny_config(num_labels=5))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def save_nlu(folder: Path, *, echo: bool, **changes: Any) -> None:
    """The joint head is this project's own: a body, and two linear layers beside each other."""
    folder.mkdir(parents=True)
    config = tiny_config(**changes)
    body = random_model(narrowed(GPT2Model), config)
    tensors = {f"transformer.{name}": value for name, value in body.state_dict().items()}
    for head, labels in (("intent_head", 3), ("slot_head", 5)):
        linear = random_model(torch.nn.Linear, 64, labels, seed=labels)
        tensors |= {f"{head}.{name}": value.clone() for name, value in linear.state_dict().items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    written = config.to_dict() | {
        "architectures": ["GPT2ForJointNlu"],
        "id2label": {"0": "play", "1": "book", "2": "rate"},
        "slot_labels": ["O", "B-artist", "I-artist", "B-place", "I-place"],
        "nlu_echo": echo,
    }
    (folder / "config.json").write_text(json.dumps(written), "utf-8")
    save_tokenizer(folder)


def save_joint_reader(folder: Path) -> None:
    """A joint head with the parts of `save_reader`, and with transitions of its slots."""
    save_nlu(folder, echo=False)
    _add_own_parts(folder, labels=3)
    tensors = load_file(folder / "model.safetensors")
    tensors["slot_transitions.weight"] = (
        random_model(torch.nn.Embedding, 6, 5, seed=6).weight.detach().clone()
    )
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text("utf-8")) | {"slot_transitions": True}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


class LmRunner:
    """Drives an `lm` graph as the engine does: one cache of slots, bound by pointer as past and present."""

    def __init__(self, artifact: Path, variant: Variant, slots: int = 16) -> None:
        shape = Manifest.load(artifact).architecture
        self._element = np.float16 if variant is Variant.FP16 else np.float32
        self.session = open_session(artifact / variant.value / "model.onnx")
        self._context = shape.context_length
        self._cache: dict[tuple[str, str], onnxruntime.OrtValue] = {}
        for layer, heads in enumerate(shape.heads):
            for past, present in (
                (LmGraph.past_key(layer), LmGraph.present_key(layer)),
                (LmGraph.past_value(layer), LmGraph.present_value(layer)),
            ):
                # NaN where nothing was written: what reads beyond a row's tokens shows.
                empty = np.full((slots, heads, self._context, shape.head_size), np.nan, self._element)
                self._cache[past, present] = onnxruntime.OrtValue.ortvalue_from_numpy(empty)

    def run(
        self, rows: list[Ids], pasts: list[int], *, slot: int = 0, wanted: list[int] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Append `rows` to slots from `slot` on; logits and hidden of `wanted`, by default the last."""
        longest = max(map(len, rows))
        ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int64)
        positions = np.array(pasts)[:, None] + np.arange(longest)
        totals = np.array([past + len(row) for past, row in zip(pasts, rows, strict=True)])
        if wanted is None:
            wanted = [index * longest + len(row) - 1 for index, row in enumerate(rows)]
        binding = self.session.io_binding()
        binding.bind_cpu_input(LmGraph.INPUT_IDS, ids)
        binding.bind_cpu_input(
            LmGraph.POSITION_IDS, np.minimum(positions, self._context - 1).astype(np.int64)
        )
        binding.bind_cpu_input(LmGraph.SEQLENS_K, (totals - 1).astype(np.int32))
        binding.bind_cpu_input(LmGraph.TOTAL_SEQUENCE_LENGTH, np.array(totals.max(), np.int32))
        binding.bind_cpu_input(LmGraph.LOGIT_ROWS, np.array(wanted, np.int64))
        binding.bind_output(LmGraph.LOGITS)
        binding.bind_output(LmGraph.HIDDEN)
        for (past, present), buffer in self._cache.items():
            row = buffer.shape()[1:]
            shape = [len(rows), *row]
            pointer = buffer.data_ptr() + slot * int(np.prod(row)) * np.dtype(self._element).itemsize
            binding.bind_input(past, "cpu", 0, self._element, shape, pointer)
            binding.bind_output(present, "cpu", 0, self._element, shape, pointer)
        self.session.run_with_iobinding(binding)
        logits, hidden = (output.numpy() for output in binding.get_outputs()[:2])
        return logits, hidden


def open_session(graph: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return open_plain(graph, options)
