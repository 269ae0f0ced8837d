"""Gram matrices of what the products of the blocks read: they say which errors add up, and which cancel."""

from __future__ import annotations

from collections.abc import Sequence

from export.checkpoint.config import ModelConfig, cache_head_size
from export.quantization.activations import ActivationReader
from export.session import Floats

HELD_BYTES = 1 << 28  # of matrices that are computed in one pass over the texts; at least those of one layer


def product_inputs(config: ModelConfig) -> list[dict[str, int]]:
    """For each layer the names of the activations that its products read, with their widths.

    In the last layer `attn.c_proj` reads only the rows that are asked for, where a graph has such rows.
    """
    hidden = config.hidden_size
    layers = []
    for layer, heads in enumerate(config.layer_heads):
        context = heads * cache_head_size(config.head_size)
        last = layer == config.num_layers - 1
        sources = {
            "ln_1": hidden,
            "attn.flat": context,
            "ln_2": hidden,
            "mlp.act": config.layer_neurons[layer],
        }
        if last:
            sources["attn.rows"] = context
        layers.append({f"h.{layer}.{source}.out": width for source, width in sources.items()})
    return layers


class GramMatrices:
    """The Gram matrix `[width, width]` of an activation over `rows` of token ids; each can be had once.

    As many layers as HELD_BYTES allow are computed in one pass over the rows.
    """

    def __init__(self, reader: ActivationReader, rows: Sequence[list[int]], config: ModelConfig) -> None:
        self._reader = reader
        self._rows = rows
        self._waiting = product_inputs(config)
        self._held: dict[str, Floats] = {}

    def __call__(self, name: str) -> Floats:
        if name not in self._held:
            self._compute()
        return self._held.pop(name)

    def _compute(self) -> None:
        self._held.clear()
        names: list[str] = []
        size = 0
        while self._waiting:
            layer = self._waiting[0]
            size += sum(4 * width * width for width in layer.values())
            if names and size > HELD_BYTES:
                break
            names += [name for name in layer if name in self._reader.names]
            del self._waiting[0]
        for run in self._reader.runs(names, self._rows):
            for name, values in run.items():
                gram = values.T @ values
                if name in self._held:
                    self._held[name] += gram
                else:
                    self._held[name] = gram
