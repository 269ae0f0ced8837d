"""A plain NumPy GPT-2, written from transformers' documentation, independent of the code under test.

Weights are a dict of arrays under the names of a checkpoint, without the `transformer.` prefix; `config` is
config.json as a dict. Everything is computed in float64, one text at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[np.float64]
Weights = Mapping[str, NDArray[Any]]
Config = Mapping[str, Any]


def load(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Weights and configuration of a checkpoint with one safetensors file in fp32 or fp16."""
    tensors = load_file(folder / "model.safetensors")
    weights = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    return weights, json.loads((folder / "config.json").read_text("utf-8"))


def lm_logits(weights: Weights, config: Config, ids: Sequence[int]) -> Array:
    """`[sequence, vocab]`."""
    head = "wte.weight" if config.get("tie_word_embeddings", True) else "lm_head.weight"
    return hidden_states(weights, config, ids) @ _get(weights, head).T


def classifier_logits(weights: Weights, config: Config, ids: Sequence[int]) -> Array:
    """`[labels]`, read at the last token."""
    return np.asarray(hidden_states(weights, config, ids)[-1] @ _get(weights, "score.weight").T)


def token_logits(weights: Weights, config: Config, ids: Sequence[int]) -> Array:
    """`[sequence, labels]` of GPT2ForTokenClassification."""
    hidden = hidden_states(weights, config, ids)
    return hidden @ _get(weights, "classifier.weight").T + _get(weights, "classifier.bias")


def nlu_logits(weights: Weights, config: Config, ids: Sequence[int]) -> tuple[Array, Array]:
    """Intents `[labels]`, read at the last token, and slots `[sequence, slot_labels]`."""
    hidden = hidden_states(weights, config, ids)
    intents = hidden[-1] @ _get(weights, "intent_head.weight").T + _get(weights, "intent_head.bias")
    return intents, hidden @ _get(weights, "slot_head.weight").T + _get(weights, "slot_head.bias")


def greedy(weights: Weights, config: Config, ids: Sequence[int], count: int) -> list[int]:
    """The next `count` tokens, each the likeliest after those before it."""
    sequence = list(ids)
    for _ in range(count):
        sequence.append(int(lm_logits(weights, config, sequence)[-1].argmax()))
    return sequence[len(ids) :]


def hidden_states(weights: Weights, config: Config, ids: Sequence[int]) -> Array:
    """After the last norm, `[sequence, hidden]`."""
    x = _get(weights, "wte.weight")[list(ids)] + _get(weights, "wpe.weight")[: len(ids)]  # [sequence, hidden]
    for layer in range(config.get("n_layer", 12)):
        path = f"h.{layer}"
        x = x + _attention(weights, config, layer, _norm(weights, config, f"{path}.ln_1", x))
        inner = _conv(
            weights, f"{path}.mlp.c_fc", _norm(weights, config, f"{path}.ln_2", x)
        )  # [sequence, inner]
        x = x + _conv(weights, f"{path}.mlp.c_proj", _activate(config, inner))
    return _norm(weights, config, "ln_f", x)


def _attention(weights: Weights, config: Config, layer: int, x: Array) -> Array:
    heads, (length, hidden) = config.get("n_head", 12), x.shape
    packed = _conv(weights, f"h.{layer}.attn.c_attn", x)  # [sequence, 3 * hidden]
    query, key, value = packed.reshape(length, 3, heads, hidden // heads).transpose(1, 2, 0, 3)
    scores = query @ key.transpose(0, 2, 1)  # [heads, sequence, sequence]
    if config.get("scale_attn_weights", True):
        scores = scores / math.sqrt(hidden // heads)
    if config.get("scale_attn_by_inverse_layer_idx", False):
        scores = scores / (layer + 1)
    scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    context = scores / scores.sum(axis=-1, keepdims=True) @ value  # [heads, sequence, head_size]
    return _conv(weights, f"h.{layer}.attn.c_proj", context.transpose(1, 0, 2).reshape(length, hidden))


def _activate(config: Config, x: Array) -> Array:
    name = config.get("activation_function", "gelu_new")
    if name == "relu":
        return np.maximum(x, 0)
    if name == "gelu":
        return np.asarray(x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _norm(weights: Weights, config: Config, path: str, x: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt(variance + config.get("layer_norm_epsilon", 1e-5))
    return np.asarray(normed * _get(weights, f"{path}.weight") + _get(weights, f"{path}.bias"))


def _conv(weights: Weights, path: str, x: Array) -> Array:
    """transformers' Conv1D: its weight is `[in, out]`."""
    return x @ _get(weights, f"{path}.weight") + _get(weights, f"{path}.bias")


def _get(weights: Weights, name: str) -> Array:
    return weights[name].astype(np.float64)
