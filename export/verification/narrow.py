"""transformers' GPT-2 with layers of different widths, as a pruned checkpoint has them.

config.json of such a checkpoint has two lists that transformers does not know: `layer_heads`, the number of
attention heads of each layer, and `layer_neurons`, the inner width of each feed-forward part. A head keeps
its size of n_embd / n_head.
"""

from __future__ import annotations

from typing import Any


def narrowed(kind: Any) -> Any:
    """The class `kind` of transformers (a GPT-2 with some head), whose layers follow the two lists."""

    class Narrowed(kind):  # type: ignore[misc]  # transformers has no types
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            narrow(self.base_model)

    Narrowed.__name__, Narrowed.__module__ = kind.__name__, kind.__module__
    return Narrowed


def narrow(body: Any) -> None:
    """Give the layers of a GPT2Model the widths of its config; their weights are new and random."""
    from transformers.pytorch_utils import Conv1D

    config = body.config
    width, size = config.n_embd, config.n_embd // config.n_head
    heads = getattr(config, "layer_heads", None) or [config.n_head] * config.n_layer
    neurons = getattr(config, "layer_neurons", None) or [config.n_inner or 4 * width] * config.n_layer
    for block, count, inner in zip(body.h, heads, neurons, strict=True):
        if count != block.attn.num_heads:
            block.attn.num_heads, block.attn.split_size = count, count * size
            block.attn.c_attn, block.attn.c_proj = (
                Conv1D(3 * count * size, width),
                Conv1D(width, count * size),
            )
        if inner != block.mlp.c_fc.nf:
            block.mlp.c_fc, block.mlp.c_proj = Conv1D(inner, width), Conv1D(width, inner)
