"""int4 weights for CPUs: a scale and a zero point for every 32 weights of a column.

Half the bytes of int8: faster for up to about four rows of decoding, slower for more, and less exact. The
embedding stays int8: it is stored once for two uses, and its error is in every logit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.graph.builder import GraphBuilder
from export.graph.int8 import Int8Weights
from export.graph.weights import Floats

BLOCK = 32  # weights; with this size the kernel's answers do not depend on the batch
COMPUTE_INT8 = 4  # MatMulNBits' accuracy_level: activations rounded to eight bits, block by block


class Int4Weights(Int8Weights):
    """MatMulNBits for the matrices of the blocks, `Int8Weights` for the embedding."""

    def __init__(self, graph: GraphBuilder, bits: int = 4, block: int = BLOCK) -> None:
        super().__init__(graph)
        self._bits = bits
        self._block = block

    def linear(
        self, path: str, x: str, weight: Floats, bias: Floats | None = None, lowest: float | None = None
    ) -> str:
        packed, scales, zeros = quantize_blocks(weight.T, self._bits, self._block)
        inputs = [
            x,
            self._graph.weight(f"{path}.weight", packed),
            self._graph.weight(f"{path}.scales", scales),
            self._graph.weight(f"{path}.zeros", zeros),
        ]
        width_in, width_out = weight.shape
        product = self._graph.microsoft(
            "MatMulNBits",
            path,
            inputs,
            K=width_in,
            N=width_out,
            bits=self._bits,
            block_size=self._block,
            accuracy_level=COMPUTE_INT8,
        )
        return self._with_bias(path, product, bias)


def quantize_blocks(
    rows: Floats, bits: int, block: int
) -> tuple[NDArray[np.uint8], Floats, NDArray[np.uint8]]:
    """`[out, in]` float32 -> packed `[out, blocks, block * bits / 8]`, scales and zero points for each block.

    A weight is about (whole number - zero point) * scale; the layout is that of MatMulNBits' inputs.
    """
    count, width = rows.shape
    blocks = -(-width // block)
    padded = np.zeros((count, blocks * block), np.float32)
    padded[:, :width] = rows
    grouped = padded.reshape(count, blocks, block)
    low = np.minimum(grouped.min(axis=2), 0)  # so that zero is exact
    high = np.maximum(grouped.max(axis=2), 0)
    steps = np.float32((1 << bits) - 1)
    scales = (high - low) / steps
    normal = scales > np.finfo(np.float32).tiny
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=normal)
    zeros = np.rint(-low * inverse)
    grouped *= inverse[:, :, None]
    np.rint(grouped, out=grouped)
    grouped += zeros[:, :, None]
    whole = np.clip(grouped, 0, steps, out=grouped).astype(np.uint8)
    return _pack(whole, bits), scales.reshape(-1), _pack(zeros.astype(np.uint8), bits).reshape(-1)


def _pack(whole: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Two four-bit numbers to a byte along the last axis, the first in the lower half."""
    if bits == 8:
        return whole
    if whole.shape[-1] % 2:
        whole = np.concatenate([whole, np.zeros_like(whole[..., :1])], axis=-1)
    return np.asarray(whole[..., 0::2] | whole[..., 1::2] << 4)
