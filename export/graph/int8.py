"""int8 weights for CPUs: one scale per output column; activations are quantized to eight bits row by row.

Products are sums of whole numbers and therefore exact, and everything else is done row by row: an answer does
not depend on the rest of the batch, to the last bit. Measured against MatMulNBits in bench/LOG.md.

On x86-64 without VNNI, ONNX Runtime adds up pairs of products in 16 bits, which saturate. Sums are exact
there in sessions with `session.x64quantprecision` = "1", as `kernels.session` opens them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.graph.builder import GraphBuilder
from export.graph.weights import Floats, Weights

LARGEST = 127  # weights are -127 .. 127, activations the same around ZERO_POINT
ZERO_POINT = 128
_BLOCK_VALUES = 1 << 22  # weights that are quantized at once


class Int8Weights(Weights):
    """Quantize each row, multiply with MatMulIntegerToFloat, scale back."""

    def __init__(self, graph: GraphBuilder) -> None:
        super().__init__(graph)
        self._zeros = ""
        self._shifts: dict[str, NDArray[np.float64]] = {}

    def rows_change(self) -> None:
        self._zeros = ""

    def linear(
        self, path: str, x: str, weight: Floats, bias: Floats | None = None, lowest: float | None = None
    ) -> str:
        quantized, scales = quantize_rows(weight.T)
        data = self._graph.weight(f"{path}.weight", np.ascontiguousarray(quantized.T))
        scale = self._graph.weight(f"{path}.scales", scales)
        if lowest is None:
            product = self._product(path, x, data, scale, weight.shape[0], None)
        else:
            product = self._product_above(path, x, lowest, data, scale, weight.shape[0])
            self._shifts[path] = quantized.sum(axis=1, dtype=np.int64) * scales * np.float32(lowest)
        return self._with_bias(path, product, bias)

    def fused_bias(self, path: str, bias: Floats) -> str:
        """The bias, plus the product of the `lowest` that `linear` subtracted from `x`."""
        shifted = bias + self._shifts.get(path, 0)
        return self._graph.weight(f"{path}.bias", shifted.astype(np.float32))

    # ids --+-- Gather rows ----+
    #       +-- Gather scales --+-- DequantizeLinear -- [tokens, hidden]
    def embedding(self, path: str, ids: str, table: Floats) -> str:
        data, scales = self._table(path, table)
        rows = self._graph.node("Gather", path, [data, ids])
        row_scales = self._graph.node("Gather", f"{path}.row_scales", [scales, ids])
        return self._graph.node("DequantizeLinear", f"{path}.floats", [rows, row_scales], axis=0)

    def unembedding(self, path: str, x: str, table_path: str, table: Floats, output: str) -> str:
        data, scales = self._table(table_path, table)
        # Constant folding does this once when the session opens; the file has one copy for both uses.
        columns = self._graph.node("Transpose", f"{path}.columns", [data], perm=[1, 0])
        return self._product(path, x, columns, scales, table.shape[1], output)

    def _table(self, path: str, table: Floats) -> tuple[str, str]:
        """Quantize an embedding per row: a row of the look-up is a column of the logits."""
        names = f"{path}.weight", f"{path}.scales"
        if not self._graph.has_weight(names[0]):
            whole, scales = quantize_rows(table)
            self._graph.weight(names[0], whole)
            self._graph.weight(names[1], scales)
        return names

    # x --+-- Abs -- ReduceMax -- Mul 1/127 --+---------------------------+
    #     |                                   |                           |
    #     +-----------------------------------+-- QuantizeLinear -- product -- Mul -- out
    def _product(self, path: str, x: str, data: str, scales: str, width: int, output: str | None) -> str:
        """A row of zeros has the scale 0: whatever QuantizeLinear returns for it is multiplied by 0 again."""
        graph = self._graph
        magnitudes = graph.node("Abs", f"{path}.abs", [x])
        largest = graph.node("ReduceMax", f"{path}.max", [magnitudes, graph.integers(1)])
        step = graph.weight("quantize.step", np.array(1 / LARGEST, np.float32))
        row_scales = graph.node("Mul", f"{path}.row_scales", [largest, step])
        zeros = self._zero_points(path, row_scales)
        # The block is as long as a row: one scale and one zero point per row.
        inputs = [x, row_scales, zeros]
        rounded = graph.node("QuantizeLinear", f"{path}.rounded", inputs, axis=1, block_size=width)
        one = graph.weight("quantize.one", np.array(1, np.float32))
        zero = graph.weight("quantize.zero_point", np.array(ZERO_POINT, np.uint8))
        product = graph.microsoft("MatMulIntegerToFloat", path, [rounded, data, one, scales, zero])
        outputs = [output] if output else None
        return graph.node("Mul", f"{path}.scaled", [product, row_scales], outputs=outputs)

    # x -- Sub lowest --+-- ReduceMax -- Mul 1/255 --+---------------------------+
    #                   |                            |                           |
    #                   +----------------------------+-- QuantizeLinear -- product -- Mul -- out
    def _product_above(self, path: str, x: str, lowest: float, data: str, scales: str, width: int) -> str:
        """For activations with a smallest value: all 256 steps are above it. It halves the error of GELU."""
        graph = self._graph
        floor = graph.weight("quantize.lowest", np.array(lowest, np.float32))
        lifted = graph.node("Sub", f"{path}.lifted", [x, floor])
        largest = graph.node("ReduceMax", f"{path}.max", [lifted, graph.integers(1)])
        step = graph.weight("quantize.step_above", np.array(1 / 255, np.float32))
        row_scales = graph.node("Mul", f"{path}.row_scales", [largest, step])
        inputs, eight = [lifted, row_scales], TensorProto.UINT8
        rounded = graph.node(
            "QuantizeLinear", f"{path}.rounded", inputs, axis=1, block_size=width, output_dtype=eight
        )
        one = graph.weight("quantize.one", np.array(1, np.float32))
        product = graph.microsoft("MatMulIntegerToFloat", path, [rounded, data, one, scales])
        return graph.node("Mul", f"{path}.scaled", [product, row_scales])

    def _zero_points(self, path: str, like: str) -> str:
        """`[rows, 1]` uint8, all ZERO_POINT; shared by all products with that number of rows."""
        if not self._zeros:
            value = helper.make_tensor("zero_point", TensorProto.UINT8, [1], [ZERO_POINT])
            shape = self._graph.node("Shape", f"{path}.rows", [like])
            self._zeros = self._graph.node("ConstantOfShape", f"{path}.zero_points", [shape], value=value)
        return self._zeros


def quantize_rows(rows: Floats) -> tuple[NDArray[np.int8], Floats]:
    """`[out, in]` float32 -> int8 and scales `[out]`; a row is about its int8 values times its scale."""
    whole, scales = np.empty(rows.shape, np.int8), np.empty(len(rows), np.float32)
    # All rows of a vocabulary at once would take several times their bytes.
    block = max(1, _BLOCK_VALUES // max(1, rows.shape[1]))
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        whole[part], scales[part] = _quantize(rows[part])
    return whole, scales


def _quantize(rows: Floats) -> tuple[Floats, Floats]:
    scales = np.maximum(rows.max(axis=1), -rows.min(axis=1)) / np.float32(LARGEST)
    # The inverse of a smaller step would be infinite; such rows count as zeros.
    normal = scales > np.finfo(np.float32).tiny
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=normal)
    steps = rows * inverse[:, None]
    return np.rint(steps, out=steps), scales
