"""A Hugging Face folder of the GPT-2 family, read and checked without torch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from export.checkpoint.config import Head, ModelConfig, read_config
from export.checkpoint.config_reader import CONFIG_FILE
from export.checkpoint.names import EMBEDDING, LM_HEAD, head_of, is_buffer, plain_names
from export.checkpoint.tensors import TensorStore
from export.checkpoint.tokenizer import read_tokenizer
from export.errors import CheckpointError
from export.progress import OnProgress
from export.reading import is_there

Shape = tuple[int, ...]
NGRAM_TABLE = "ngrams.weight"  # [buckets, labels], of this project's own bag of n-grams
# [slot_labels + 1, slot_labels]: the score of each tag after each other one; the last row: of the first tag.
SLOT_TRANSITIONS = "slot_transitions.weight"
# The class of a checkpoint that does not name its own, by a head that only this class has.
_HEADS_OF = {"score": Head.SEQUENCE, "classifier": Head.TOKEN, "intent_head": Head.JOINT}
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


class Checkpoint:
    """Config, tokenizer and weights; names of weights are plain, as `plain_names` makes them.

    `notes` say where serving differs from transformers, and what of the folder is left out.
    """

    notes: tuple[str, ...]

    def __init__(
        self, config: ModelConfig, tokenizer: Tokenizer, tensors: TensorStore, notes: tuple[str, ...] = ()
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self._tensors = tensors
        self._stored = plain_names(list(tensors), tensors.metadata)
        if config.tied and config.head is Head.LM and LM_HEAD in self._stored:
            self._stored.setdefault(EMBEDDING, self._stored[LM_HEAD])
        self.notes = config.notes + notes + _check_names(config, tensors, self._stored)

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read config.json, the tokenizer and the safetensors headers; raises CheckpointError."""
        if not folder.is_dir():
            raise CheckpointError(f"{folder.name}: not a folder")
        refuse_adapter([name for name in ADAPTER_FILES if is_there(folder / name)])
        config = read_config(folder)
        tensors = TensorStore.open(folder)
        tokenizer, notes = read_tokenizer(folder, config)
        return cls(config, tokenizer, tensors, notes)

    def weight(self, name: str) -> NDArray[np.float32]:
        """A tensor as float32, a view of the file if that stores float32; raises CheckpointError for NaN."""
        return self._tensors.read(self._stored[name])

    def release(self) -> None:
        """Return the memory of weights that were read; they can be read again."""
        self._tensors.release()


class DerivedCheckpoint(Checkpoint):
    """A checkpoint whose weights are computed from those of another."""

    def __init__(self, plain: Checkpoint) -> None:
        self.config = plain.config
        self.tokenizer = plain.tokenizer
        self.notes = plain.notes
        self._plain = plain

    def weight(self, name: str) -> NDArray[np.float32]:
        return self._plain.weight(name)

    def release(self) -> None:
        self._plain.release()


class CountedCheckpoint(DerivedCheckpoint):
    """The same weights; `on_progress` gets the share of them that was read."""

    def __init__(self, plain: Checkpoint, on_progress: OnProgress) -> None:
        super().__init__(plain)
        self._on_progress = on_progress
        self._total = len(expected_shapes(plain.config))
        self._read: set[str] = set()

    def weight(self, name: str) -> NDArray[np.float32]:
        self._read.add(name)
        self._on_progress(len(self._read) / self._total)
        return super().weight(name)


def refuse_adapter(files: Collection[str]) -> None:
    """Refuse an adapter beside the model: transformers applies it, so the model alone answers differently."""
    for name in ADAPTER_FILES:
        if name in files:
            raise CheckpointError(
                f"{name}: an adapter; `lmaas export BASE --adapter FOLDER` merges it into its base",
                field=name,
            )


def expected_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every tensor that the architecture needs. Conv1D weights are `[in, out]`, heads `[out, in]`."""
    hidden = config.hidden_size
    shapes: dict[str, Shape] = {
        EMBEDDING: (config.vocab_size, hidden),
        "wpe.weight": (config.context_length, hidden),
        "ln_f.weight": (hidden,),
        "ln_f.bias": (hidden,),
    }
    for layer in range(config.num_layers):
        block, inner = f"h.{layer}", config.layer_neurons[layer]
        context = config.layer_heads[layer] * config.head_size
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{block}.{norm}.weight": (hidden,), f"{block}.{norm}.bias": (hidden,)}
        for path, width_in, width_out in (
            ("attn.c_attn", hidden, 3 * context),
            ("attn.c_proj", context, hidden),
            ("mlp.c_fc", hidden, inner),
            ("mlp.c_proj", inner, hidden),
        ):
            shapes |= {f"{block}.{path}.weight": (width_in, width_out), f"{block}.{path}.bias": (width_out,)}
    return shapes | _head_shapes(config)


def _head_shapes(config: ModelConfig) -> dict[str, Shape]:
    hidden, labels, slots = config.hidden_size, len(config.labels), len(config.slot_labels)
    if config.head is Head.LM:
        return {} if config.tied else {LM_HEAD: (config.vocab_size, hidden)}
    if config.head is Head.TOKEN:
        return {"classifier.weight": (slots, hidden), "classifier.bias": (slots,)}
    bag: dict[str, Shape] = {} if config.ngrams is None else {NGRAM_TABLE: (config.ngrams.buckets, labels)}
    if config.head is Head.SEQUENCE:
        return {"score.weight": (labels, hidden)} | bag
    transitions: dict[str, Shape] = {SLOT_TRANSITIONS: (slots + 1, slots)} if config.slot_transitions else {}
    heads: dict[str, Shape] = {
        "intent_head.weight": (labels, hidden),
        "intent_head.bias": (labels,),
        "slot_head.weight": (slots, hidden),
        "slot_head.bias": (slots,),
    }
    return bag | transitions | heads


def _check_names(config: ModelConfig, tensors: TensorStore, stored: dict[str, str]) -> tuple[str, ...]:
    """Returns notes about heads that are left out. Raises CheckpointError naming the tensor."""
    expected = expected_shapes(config)
    others: dict[str, None] = {}
    for name in stored:
        if name in expected or is_buffer(name):
            continue
        head = head_of(name)
        if head is None:
            raise CheckpointError(f"tensor {name}: {config.head.value} has no such weight", field=name)
        # Some writers store a tied head; it is the embedding.
        if name != LM_HEAD or not config.tied:
            others[head] = None
    if config.assumed_head and (known := [head for head in others if head in _HEADS_OF]):
        raise CheckpointError(
            f"{CONFIG_FILE}: architectures: null, and the weights have the head {known[0]}: name the model's"
            f" class, {_HEADS_OF[known[0]].value}",
            field="architectures",
        )
    for name, shape in expected.items():
        _check_shape(config, tensors, stored, name, shape)
    if not others:
        return ()
    return (f"{', '.join(others)}: left out, {config.head.value} has no such head",)


def _check_shape(
    config: ModelConfig, tensors: TensorStore, stored: dict[str, str], name: str, shape: Shape
) -> None:
    if name not in stored:
        raise CheckpointError(f"tensor {name}: missing, expected shape {shape}", field=name)
    found = tensors.shape(stored[name])
    if found != shape:
        why, field = f"tensor {name}: expected shape {shape}, found {found}", name
        if head_of(name) and found[1:] == shape[1:] and config.head is not Head.LM:
            key = "slot_labels" if name.startswith("slot_head") else "id2label"
            instead = "" if key == "slot_labels" else " (num_labels without it)"
            why = f"{CONFIG_FILE}: {key}{instead}: {shape[0]} names, but {name} has {found[0]} rows"
            field = key
        raise CheckpointError(why, field=field)
    tensors.require_readable(stored[name])
