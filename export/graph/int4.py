"""int4 weights for CPUs: four bits each, a factor for every 32 weights of a column, a step for a column.

    weight = (nibble - 8) * factor * step        nibble 0 .. 15, factor -127 .. 127, both whole numbers

About half the bytes of int8, so faster where few rows are decoded. The embedding stays int8: it is stored
once for two uses, and its error is in every logit. Measured in bench/LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from export.graph.builder import GraphBuilder
from export.graph.int8 import Int8Weights
from export.graph.weights import Floats
from export.quantization.blocks import BLOCK, round_blocks

COMPUTE_INT8 = 4  # MatMulNBits' accuracy_level: activations rounded to eight bits, block by block
# From the name of an activation to its Gram matrix [in, in] over calibration texts.
Grams = Callable[[str], Floats]


class Int4Weights(Int8Weights):
    """MatMulNBits for the matrices of the blocks, `Int8Weights` for the embedding.

    With `grams`, weights are rounded for what the products say on calibration texts, not each by itself.
    """

    def __init__(self, graph: GraphBuilder, grams: Grams | None = None) -> None:
        super().__init__(graph)
        self._grams = grams

    # factors -- Cast -- Mul steps --+
    # weight ------------------------+-- MatMulNBits -- out
    # x -----------------------------+
    def linear(
        self, path: str, x: str, weight: Floats, bias: Floats | None = None, lowest: float | None = None
    ) -> str:
        """The scales are multiplied once, when a session is opened."""
        graph, (width_in, width_out) = self._graph, weight.shape
        rounded = round_blocks(weight, None if self._grams is None else self._grams(x))
        packed = graph.weight(f"{path}.weight", _pack(rounded.nibbles))
        factors = graph.weight(f"{path}.factors", rounded.factors)
        floats = graph.node("Cast", f"{path}.factors.floats", [factors], to=TensorProto.FLOAT)
        steps = graph.weight(f"{path}.steps", rounded.steps[:, None])
        scales = graph.node("Mul", f"{path}.scales", [floats, steps])
        product = graph.microsoft(
            "MatMulNBits",
            path,
            [x, packed, scales],
            K=width_in,
            N=width_out,
            bits=4,
            block_size=BLOCK,
            accuracy_level=COMPUTE_INT8,
        )
        return self._with_bias(path, product, bias)


def _pack(nibbles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`[out, blocks, BLOCK]` -> `[out, blocks, BLOCK / 2]`, the first of two weights in the low half."""
    return np.asarray(nibbles[..., 0::2] | nibbles[..., 1::2] << 4)
