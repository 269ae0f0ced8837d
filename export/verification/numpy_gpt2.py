"""A plain NumPy GPT-2, written from transformers' documentation, independent of the reader and of the graphs.

Weights are a dict of arrays under the names of a checkpoint, without the `transformer.` prefix; `config` is
config.json as a dict. It reads one text at a time, in float64 unless `dtype` is float32.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - teaches NumPy the name bfloat16, which safetensors reads by
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[Any]  # of the `dtype` that is computed in
Precision = type[np.float64] | type[np.float32]
Weights = Mapping[str, NDArray[Any]]
Config = Mapping[str, Any]


def load(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Weights, as they are stored, and configuration of a checkpoint, single or sharded."""
    index = folder / "model.safetensors.index.json"
    files = {"model.safetensors"}
    if index.is_file():
        files = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    tensors = {name: tensor for file in files for name, tensor in load_file(folder / file).items()}
    weights = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    return weights, json.loads((folder / "config.json").read_text("utf-8"))


def lm_logits(weights: Weights, config: Config, ids: Sequence[int], dtype: Precision = np.float64) -> Array:
    """`[sequence, vocab]`."""
    hidden = hidden_states(weights, config, ids, dtype)
    head = "wte.weight" if config.get("tie_word_embeddings", True) else "lm_head.weight"
    return np.asarray(hidden @ _get(weights, head, dtype).T)


def classifier_logits(
    weights: Weights, config: Config, ids: Sequence[int], dtype: Precision = np.float64
) -> Array:
    """`[labels]`, read at the last token that is not padding, which is the first one where all are."""
    read = [place for place, token in enumerate(ids) if token != config.get("pad_token_id")]
    last = read[-1] if read else 0
    hidden = hidden_states(weights, config, ids[: last + 1], dtype)
    score = hidden[last] @ _get(weights, "score.weight", dtype).T
    return np.asarray(score + _bag(weights, config, ids[: last + 1], dtype))


def token_logits(
    weights: Weights, config: Config, ids: Sequence[int], dtype: Precision = np.float64
) -> Array:
    """`[sequence, labels]` of GPT2ForTokenClassification."""
    return _linear(weights, "classifier", hidden_states(weights, config, ids, dtype))


def nlu_logits(
    weights: Weights, config: Config, ids: Sequence[int], dtype: Precision = np.float64
) -> tuple[Array, Array]:
    """Intents `[labels]`, read at the last token, and slots `[sequence, slot_labels]`."""
    hidden = hidden_states(weights, config, ids, dtype)
    intents = _linear(weights, "intent_head", hidden[-1]) + _bag(weights, config, ids, dtype)
    return np.asarray(intents), _linear(weights, "slot_head", hidden)


def greedy(weights: Weights, config: Config, ids: Sequence[int], count: int) -> list[int]:
    """The next `count` tokens, each the likeliest after those before it."""
    sequence = list(ids)
    for _ in range(count):
        sequence.append(int(lm_logits(weights, config, sequence)[-1].argmax()))
    return sequence[len(ids) :]


def hidden_states(
    weights: Weights, config: Config, ids: Sequence[int], dtype: Precision = np.float64
) -> Array:
    """After the last norm, `[sequence, hidden]`."""
    tokens, positions = weights["wte.weight"][list(ids)], weights["wpe.weight"][: len(ids)]
    x = tokens.astype(dtype) + positions.astype(dtype)  # [sequence, hidden]
    for layer in range(config.get("n_layer", 12)):
        path = f"h.{layer}"
        x = x + _attention(weights, config, layer, _norm(weights, config, f"{path}.ln_1", x))
        normed = _norm(weights, config, f"{path}.ln_2", x)
        inner = _conv(weights, f"{path}.mlp.c_fc", normed)  # [sequence, inner]
        x = x + _conv(weights, f"{path}.mlp.c_proj", _activate(config, inner))
    return _norm(weights, config, "ln_f", x)


def _attention(weights: Weights, config: Config, layer: int, x: Array) -> Array:
    heads, (length, hidden) = config.get("n_head", 12), x.shape
    size = hidden // heads
    heads = config["layer_heads"][layer] if config.get("layer_heads") else heads  # of a pruned layer
    packed = _conv(weights, f"h.{layer}.attn.c_attn", x)  # [sequence, 3 * heads * head_size]
    query, key, value = packed.reshape(length, 3, heads, size).transpose(1, 2, 0, 3)
    scores = query @ key.transpose(0, 2, 1)  # [heads, sequence, sequence]
    if config.get("scale_attn_weights", True):
        scores = scores / math.sqrt(size)
    if config.get("scale_attn_by_inverse_layer_idx", False):
        scores = scores / (layer + 1)
    if config.get("attention", "causal") == "causal":
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    context = scores / scores.sum(axis=-1, keepdims=True) @ value  # [heads, sequence, head_size]
    return _conv(weights, f"h.{layer}.attn.c_proj", context.transpose(1, 0, 2).reshape(length, heads * size))


def _bag(weights: Weights, config: Config, ids: Sequence[int], dtype: Precision) -> Array | float:
    """`[labels]` of this project's bag of n-grams; 0 where the checkpoint has none."""
    if "ngrams.weight" not in weights:
        return 0.0
    if config.get("ngram_pairs"):
        ids = marked_pair(ids, config["eos_token_id"], len(weights["wte.weight"]))
    found = [
        ngram_bucket(ids[start : start + order], config["ngram_buckets"])
        for order in config["ngram_orders"]
        for start in range(len(ids) - order + 1)
    ]
    rows = _get(weights, "ngrams.weight", dtype)[found]  # [n-grams, labels]
    return np.asarray(rows.sum(axis=0) / math.sqrt(max(len(found), 1)))


def marked_pair(ids: Sequence[int], end: int, vocabulary: int) -> list[int]:
    """The second text with the token that ends the first; tokens that the first lacks are raised."""
    start = list(ids).index(end) if end in ids else len(ids)
    known = {*ids[:start], end}
    return [token if token in known else token + vocabulary for token in ids[start:]]


def ngram_bucket(tokens: Sequence[int], buckets: int) -> int:
    """A prime, and a random odd number for the length and for each place (export/graph/ngrams.py)."""
    total = len(tokens) * _NGRAM_FACTORS[0]
    total += sum((token + 1) * factor for token, factor in zip(tokens, _NGRAM_FACTORS[1:], strict=False))
    return total % (2**31 - 1) % buckets


_NGRAM_FACTORS = (
    *(1_540_483_477, 1_103_515_245, 1_664_525_001),
    *(2_027_808_453, 1_812_433_253, 1_289_706_101),
)


def _activate(config: Config, x: Array) -> Array:
    name = config.get("activation_function", "gelu_new")
    if name == "relu":
        return np.maximum(x, 0)
    if name == "gelu":
        return np.asarray(x * 0.5 * (1 + erf(x / math.sqrt(2))))
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))))


def erf(x: Array) -> Array:
    """The error function to about 1e-13, in the dtype of `x`: at the nearest node by Python, then Taylor."""
    wide = np.clip(x, -_ERF_END, _ERF_END).astype(np.float64)
    nearest = np.rint((wide + _ERF_END) * _ERF_NODES).astype(np.int64)
    node = nearest / _ERF_NODES - _ERF_END
    step = wide - node
    slope = 2 / math.sqrt(math.pi) * np.exp(-node * node)
    # Each derivative is the slope times a Hermite polynomial of the node.
    series = step - node * step**2 + (2 * node * node - 1) / 3 * step**3
    return np.asarray(_ERF[nearest] + slope * series).astype(x.dtype)


_ERF_END = 6  # beyond it the function is 1 to the last bit of a float64
_ERF_NODES = 1024  # to a unit of x
_ERF = np.array([math.erf(node / _ERF_NODES - _ERF_END) for node in range(2 * _ERF_END * _ERF_NODES + 1)])


def _norm(weights: Weights, config: Config, path: str, x: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt(variance + config.get("layer_norm_epsilon", 1e-5))
    weight, bias = (_get(weights, f"{path}.{part}", x.dtype) for part in ("weight", "bias"))
    return np.asarray(normed * weight + bias)


def _conv(weights: Weights, path: str, x: Array) -> Array:
    """transformers' Conv1D: its weight is `[in, out]`."""
    return np.asarray(x @ _get(weights, f"{path}.weight", x.dtype) + _get(weights, f"{path}.bias", x.dtype))


def _linear(weights: Weights, path: str, x: Array) -> Array:
    """torch's Linear: its weight is `[out, in]`."""
    return np.asarray(x @ _get(weights, f"{path}.weight", x.dtype).T + _get(weights, f"{path}.bias", x.dtype))


def _get(weights: Weights, name: str, dtype: Precision | np.dtype[Any]) -> Array:
    return weights[name].astype(dtype, copy=False)
