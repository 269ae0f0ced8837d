"""Estimated sizes of the variants of a checkpoint, before an export. All in bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from export.checkpoint.config import ModelConfig, cache_head_size
from export.checkpoint.folder import expected_shapes
from export.quantization.blocks import BLOCK
from runtime.contract import Variant

_MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_TABLES = ("wte.weight", "lm_head.weight")  # for look-up and logits


def variant_sizes(config: ModelConfig) -> dict[Variant, int]:
    """The weights of each variant; the nodes of a graph add some kilobytes."""
    sizes = dict.fromkeys(Variant, 0)
    for name, shape in expected_shapes(config).items():
        count = math.prod(shape)
        narrow = name in _TABLES or name.endswith(_MATRICES)
        rows, columns = shape[0], shape[-1]
        sizes[Variant.FP32] += 4 * count
        sizes[Variant.FP16] += (2 if narrow else 4) * count
        # A scale in float32 for each row of a table, for each column of a matrix.
        int8 = count + 4 * (rows if name in _TABLES else columns) if narrow else 4 * count
        sizes[Variant.INT8] += int8
        if name.endswith(_MATRICES):
            blocks = math.ceil(rows / BLOCK)
            # Half a byte for each weight, a byte for each block, a float32 for each column.
            sizes[Variant.INT4] += columns * (blocks * (BLOCK // 2 + 1) + 4)
        else:
            sizes[Variant.INT4] += int8
    return sizes


def cache_sizes(heads: Sequence[int], head_size: int) -> dict[Variant, int]:
    """The KV cache of each token of a sequence: float16 in fp16, float32 in every other variant.

    `heads` are those of each layer.
    """
    numbers = 2 * sum(heads) * cache_head_size(head_size)
    return {variant: (2 if variant is Variant.FP16 else 4) * numbers for variant in Variant}
