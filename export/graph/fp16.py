"""fp16 for GPUs: weights, cache and products in float16, all sums in float32.

The residual stream and the norms over it stay float32, where a trained model has channels in the thousands.
Softmax and dot products accumulate in float32 inside the kernels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from export.errors import CheckpointError
from export.graph.weights import Floats, Weights

LARGEST = float(np.finfo(np.float16).max)


class Fp16Weights(Weights):
    """Casts before each product and where its result is added to the residual stream."""

    cache_element = TensorProto.FLOAT16

    def narrow(self, path: str, x: str) -> str:
        return self._graph.node("Cast", f"{path}.half", [x], to=TensorProto.FLOAT16)

    def widen(self, path: str, x: str) -> str:
        return self._graph.node("Cast", f"{path}.full", [x], to=TensorProto.FLOAT)

    def narrow_bias(self, path: str, bias: Floats) -> str:
        return self._weight(f"{path}.bias", bias)

    # ids -- Gather rows -- Cast to float32
    def embedding(self, path: str, ids: str, table: Floats) -> str:
        return self.widen(path, super().embedding(path, ids, table))

    # x -- Cast to float16 -- Gemm with the table -- Cast to float32
    def unembedding(self, path: str, x: str, table_path: str, table: Floats, output: str) -> str:
        inputs = [self.narrow(path, x), self._weight(f"{table_path}.weight", table)]
        product = self._graph.node("Gemm", path, inputs, transB=1)
        return self._graph.node("Cast", f"{path}.full", [product], outputs=[output], to=TensorProto.FLOAT)

    def _weight(self, name: str, array: Floats) -> str:
        if self._graph.has_weight(name):
            return name
        return self._graph.weight(name, to_fp16(name, array))


def to_fp16(name: str, array: Floats) -> NDArray[np.float16]:
    """Rounded to float16; raises CheckpointError where a value is too large for float16."""
    largest = max(float(array.max(initial=0.0)), -float(array.min(initial=0.0)))
    if largest > LARGEST:
        raise CheckpointError(
            f"tensor {name}: holds {largest:.6g}, but fp16 ends at {LARGEST:g}: leave out the variant fp16",
            field=name,
        )
    return array.astype(np.float16)
