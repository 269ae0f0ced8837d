"""A Hugging Face folder of the GPT-2 family, read and checked without torch."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from export.checkpoint.config import Head, ModelConfig, read_config
from export.checkpoint.tensors import TensorStore
from export.checkpoint.tokenizer import read_tokenizer
from export.errors import CheckpointError
from export.progress import OnProgress
from export.reading import is_there

Shape = tuple[int, ...]
# Attention masks that old checkpoints store as buffers.
_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
_PREFIX = "transformer."
NGRAM_TABLE = "ngrams.weight"  # [buckets, labels], of this project's own bag of n-grams
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


class Checkpoint:
    """Config, tokenizer and weights; names of weights have no `transformer.` prefix."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, tensors: TensorStore) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self._tensors = tensors
        self._stored = {name.removeprefix(_PREFIX): name for name in tensors}
        _check_names(config, tensors, self._stored)

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read config.json, the tokenizer and the safetensors headers; raises CheckpointError."""
        if not folder.is_dir():
            raise CheckpointError(f"{folder.name}: not a folder")
        refuse_adapter([name for name in ADAPTER_FILES if is_there(folder / name)])
        config = read_config(folder)
        tensors = TensorStore.open(folder)
        return cls(config, read_tokenizer(folder, config), tensors)

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
                f"{name}: an adapter, and only whole models are served: merge it into its model (peft's"
                " merge_and_unload), and save that in a folder without the adapter",
                field=name,
            )


def expected_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every tensor that the architecture needs. Conv1D weights are `[in, out]`, heads `[out, in]`."""
    hidden = config.hidden_size
    shapes: dict[str, Shape] = {
        "wte.weight": (config.vocab_size, hidden),
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
        return {} if config.tied else {"lm_head.weight": (config.vocab_size, hidden)}
    if config.head is Head.TOKEN:
        return {"classifier.weight": (slots, hidden), "classifier.bias": (slots,)}
    bag: dict[str, Shape] = {} if config.ngrams is None else {NGRAM_TABLE: (config.ngrams.buckets, labels)}
    if config.head is Head.SEQUENCE:
        return {"score.weight": (labels, hidden)} | bag
    return bag | {
        "intent_head.weight": (labels, hidden),
        "intent_head.bias": (labels,),
        "slot_head.weight": (slots, hidden),
        "slot_head.bias": (slots,),
    }


def _check_names(config: ModelConfig, tensors: TensorStore, stored: dict[str, str]) -> None:
    expected = expected_shapes(config)
    names = list(tensors)
    if len(stored) != len(names):
        twice = next(
            name for name in names if name.startswith(_PREFIX) and name.removeprefix(_PREFIX) in names
        )
        raise CheckpointError(f"tensor {twice}: stored with and without the prefix {_PREFIX}", field=twice)
    for name, shape in expected.items():
        if name not in stored:
            raise CheckpointError(f"tensor {name}: missing, expected shape {shape}", field=name)
        found = tensors.shape(stored[name])
        if found != shape:
            raise CheckpointError(f"tensor {name}: expected shape {shape}, found {found}", field=name)
        tensors.require_readable(stored[name])
    for name in stored:
        # Some writers store a tied head; it is the embedding.
        tied_head = name == "lm_head.weight" and config.tied
        if name not in expected and not tied_head and not _BUFFER.fullmatch(name):
            raise CheckpointError(
                f"tensor {name}: {config.head.value} has no such weight (an adapter or another head?)",
                field=name,
            )
