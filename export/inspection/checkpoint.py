"""The content of a checkpoint folder, also where it cannot be exported."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from export.checkpoint.config import (
    HEAD_SIZE_STEP,
    Head,
    ModelConfig,
    cache_head_size,
    read_config,
)
from export.checkpoint.config_reader import CONFIG_FILE
from export.checkpoint.folder import Checkpoint, expected_shapes
from export.checkpoint.tensors import INDEX_FILE, SINGLE_FILE
from export.checkpoint.tokenizer import read_tokenizer
from export.errors import CheckpointError
from export.inspection.sizes import cache_sizes, variant_sizes
from export.inspection.tensors import WeightFacts, inspect_weights
from export.reading import is_there, read_json_object
from runtime.contract import Kind

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "encoder.json", "vocab.bpe")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class FileFacts:
    name: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The dimensions of a model of any family; None where config.json does not give one."""

    layers: int | None
    width: int | None
    heads: int | None
    context: int | None  # tokens
    vocabulary: int | None  # tokens

    @classmethod
    def of(cls, config: ModelConfig) -> Dimensions:
        return cls(
            config.num_layers, config.hidden_size, config.num_heads, config.context_length, config.vocab_size
        )

    @classmethod
    def named(cls, raw: dict[str, Any]) -> Dimensions:
        """Read by the keys of GPT-2 and of later families."""

        def first(*keys: str) -> int | None:
            return next((raw[key] for key in keys if type(raw.get(key)) is int), None)

        return cls(
            first("n_layer", "num_hidden_layers"),
            first("n_embd", "hidden_size"),
            first("n_head", "num_attention_heads"),
            first("n_positions", "n_ctx", "max_position_embeddings"),
            first("vocab_size"),
        )


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts from a config.json that the exporter supports."""

    kind: str
    parameters: int  # a tied head is the embedding, and counted once
    activation: str
    labels: tuple[str, ...]
    slot_labels: tuple[str, ...]
    problem_type: str
    unusual: tuple[str, ...]
    notes: tuple[str, ...]  # where serving differs from transformers
    cache_sizes: dict[str, int]  # bytes for each token, by variant; only a language model has a cache
    variant_sizes: dict[str, int]  # bytes, estimated

    @classmethod
    def of(cls, config: ModelConfig) -> ModelFacts:
        cache = {}
        if config.head.kind is Kind.LM:
            cache = cache_sizes(config.layer_heads, config.head_size)
        return cls(
            kind=config.head.kind.value,
            parameters=sum(map(math.prod, expected_shapes(config).values())),
            activation=config.activation.value,
            labels=config.labels,
            slot_labels=config.slot_labels,
            problem_type=config.problem_type,
            unusual=tuple(_unusual(config)),
            notes=config.notes,
            cache_sizes={variant.value: size for variant, size in cache.items()},
            variant_sizes={variant.value: size for variant, size in variant_sizes(config).items()},
        )


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    files: tuple[str, ...]
    vocabulary: int  # tokens, added ones included
    special: dict[str, int]  # special tokens and their ids


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """A part that could not be read is None; `problem` gives the reason, as an export would."""

    what: ClassVar[str] = "checkpoint"

    name: str
    problem: str | None  # why it cannot be exported
    architecture: str | None  # as in config.json
    dimensions: Dimensions
    model: ModelFacts | None
    weights: WeightFacts | None
    tokenizer: TokenizerFacts | None
    files: tuple[FileFacts, ...]


def inspect_checkpoint(folder: Path, name: str) -> CheckpointFacts:
    """Read each part separately: a damaged one does not hide the others."""
    raw = _readable(lambda: read_json_object(folder / CONFIG_FILE)) or {}
    config = _readable(lambda: read_config(folder))
    return CheckpointFacts(
        name=name,
        problem=_problem(folder),
        architecture=_architecture(raw),
        dimensions=Dimensions.of(config) if config else Dimensions.named(raw),
        model=ModelFacts.of(config) if config else None,
        weights=_readable(lambda: _weights(folder)),
        tokenizer=_readable(lambda: _tokenizer(folder, config)) if config else None,
        files=tuple(_files(folder)),
    )


def _readable(read: Callable[[], Value]) -> Value | None:
    """None where it cannot be read; `_problem` reads it too and gives the reason."""
    try:
        return read()
    except CheckpointError:
        return None


def _problem(folder: Path) -> str | None:
    try:
        Checkpoint.open(folder)
    except CheckpointError as error:
        return error.message
    return None


def _architecture(raw: dict[str, Any]) -> str | None:
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and names else raw.get("model_type")
    return name if isinstance(name, str) else None


def _weights(folder: Path) -> WeightFacts | None:
    names = [SINGLE_FILE]
    if is_there(folder / INDEX_FILE):
        shards = read_json_object(folder / INDEX_FILE).get("weight_map")
        # Only files of this folder: an index can contain any path.
        found = {path.name for path in folder.glob("*.safetensors")}
        names = sorted(found & set(map(str, shards.values()))) if isinstance(shards, dict) else []
    if not names:
        return None
    return inspect_weights([folder / name for name in names], ", ".join(names))


def _tokenizer(folder: Path, config: ModelConfig) -> TokenizerFacts:
    tokenizer, _ = read_tokenizer(folder, config)
    added = tokenizer.get_added_tokens_decoder().items()
    return TokenizerFacts(
        files=tuple(name for name in _TOKENIZER_FILES if is_there(folder / name)),
        vocabulary=tokenizer.get_vocab_size(with_added_tokens=True),
        special={token.content: number for number, token in added if token.special},
    )


def _unusual(config: ModelConfig) -> list[str]:
    """Differences from the published GPT-2."""
    found = []
    if not config.scale_attention:
        found.append("attention is not scaled by the head size (scale_attn_weights)")
    if config.scale_by_layer:
        found.append("attention is scaled by the layer (scale_attn_by_inverse_layer_idx)")
    if config.head is Head.LM and not config.tied:
        found.append("the output has weights of its own (tie_word_embeddings)")
    if config.inner_size != 4 * config.hidden_size:
        found.append(f"the feed-forward layers are {config.inner_size} wide (n_inner)")
    if set(config.layer_heads) != {config.num_heads}:
        found.append(f"the layers have {', '.join(map(str, config.layer_heads))} heads (layer_heads)")
    if set(config.layer_neurons) != {config.inner_size}:
        widths = ", ".join(map(str, config.layer_neurons))
        found.append(f"the feed-forward layers are {widths} wide (layer_neurons)")
    if config.layer_norm_epsilon != 1e-5:
        found.append(f"the norms add {config.layer_norm_epsilon:g} (layer_norm_epsilon)")
    if config.head_size % HEAD_SIZE_STEP:
        found.append(
            f"heads of {config.head_size} are served as heads of {cache_head_size(config.head_size)}"
        )
    if config.head is Head.LM and config.eos_token_id is None:
        found.append("nothing ends a text before its longest length (eos_token_id null)")
    if config.nlu_echo:
        found.append("it reads a text twice, and tags the second copy (nlu_echo)")
    if config.bidirectional:
        found.append("attention reads both sides of a token (attention bidirectional)")
    if config.slot_transitions:
        found.append("a slot tag is also scored by the tag before it (slot_transitions)")
    if config.ngrams is not None:
        orders = ", ".join(map(str, config.ngrams.orders))
        text = " of the second text" if config.ngrams.pairs else ""
        found.append(
            f"n-grams of {orders} tokens{text}, in {config.ngrams.buckets} buckets, add to the labels' logits"
        )
    return found


def _files(folder: Path) -> list[FileFacts]:
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    return [FileFacts(path.name, path.stat().st_size) for path in paths]
