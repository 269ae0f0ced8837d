"""Eight-bit weights for CPUs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.graph.builder import GraphBuilder
from export.graph.weights import Floats, small_head

MAX_BLOCK = 128
MIN_BLOCK = 16
ZERO_POINT = 128
ACCURACY_LEVEL = 4  # activations are rounded to eight bits, per block of a row


class EightBitWeights:
    """MatMulNBits with eight bits, symmetric around 128, one scale per block of a column."""

    def __init__(self, graph: GraphBuilder, max_block: int = MAX_BLOCK) -> None:
        self._graph = graph
        self._max_block = max_block

    def linear(self, path: str, x: str, weight: Floats, bias: Floats | None) -> str:
        return self._product(path, x, path, np.ascontiguousarray(weight.T), bias, None)

    def embedding(self, path: str, ids: str, table: Floats) -> str:
        block = self._block(table.shape[1])
        if table.shape[1] % block:
            return self._graph.node("Gather", path, [self._graph.weight(f"{path}.weight", table), ids])
        data, scales = self._quantized(path, table, block)
        # Scales with the rank of the data; MatMulNBits wants them without the last axis.
        scales = self._graph.node("Unsqueeze", f"{path}.scales.column", [scales, self._graph.integers(2)])
        hidden = self._graph.microsoft(
            "GatherBlockQuantized",
            path,
            [data, ids, scales],
            bits=8,
            block_size=block,
            gather_axis=0,
            quantize_axis=2,
        )
        return self._graph.node(
            "Reshape", f"{path}.flat", [hidden, self._graph.integers(0, 0, table.shape[1])]
        )

    def unembedding(self, path: str, x: str, table_path: str, table: Floats, output: str) -> str:
        return self._product(path, x, table_path, table, None, output)

    def small_head(self, path: str, x: str, weight: Floats, bias: Floats | None, output: str) -> str:
        return small_head(self._graph, path, x, weight, bias, output)

    def _product(
        self, path: str, x: str, weight_path: str, rows: Floats, bias: Floats | None, output: str | None
    ) -> str:
        """`x @ rows.T`; `rows` is `[out, in]`."""
        block = self._block(rows.shape[1])
        data, scales = self._quantized(weight_path, rows, block)
        inputs = [x, data, scales]
        if bias is not None:
            inputs += ["", "", self._graph.weight(f"{path}.bias", bias)]
        return self._graph.microsoft(
            "MatMulNBits",
            path,
            inputs,
            outputs=[output] if output else None,
            K=rows.shape[1],
            N=rows.shape[0],
            bits=8,
            block_size=block,
            accuracy_level=ACCURACY_LEVEL,
        )

    def _quantized(self, path: str, rows: Floats, block: int) -> tuple[str, str]:
        data, scales = quantize_blocks(rows, block)
        return self._graph.weight(f"{path}.weight", data), self._graph.weight(f"{path}.scales", scales)

    def _block(self, width: int) -> int:
        """The largest block that divides `width`; where none does, the last block is padded."""
        block = self._max_block
        while block > MIN_BLOCK and width % block:
            block //= 2
        return block


def quantize_blocks(rows: Floats, block: int) -> tuple[NDArray[np.uint8], Floats]:
    """`[out, in]` -> `[out, blocks, block]` uint8 and scales `[out, blocks]`: value = (q - 128) * scale."""
    count = -(-rows.shape[1] // block)
    padded = np.pad(rows, ((0, 0), (0, count * block - rows.shape[1])))
    blocks = padded.reshape(rows.shape[0], count, block)
    scales = np.maximum(blocks.max(axis=2, keepdims=True), -blocks.min(axis=2, keepdims=True)) / np.float32(
        127
    )
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    return (np.rint(blocks * inverse) + ZERO_POINT).astype(np.uint8), scales[:, :, 0]
