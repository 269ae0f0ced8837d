"""How weights enter a graph, one class per precision; the body is built the same over each."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from export.graph.builder import GraphBuilder

Floats = NDArray[np.float32]


class Weights(Protocol):
    """Adds matrix products and look-ups to a graph, over activations `[rows, features]`.

    The residual stream and the norms are float32. What lies between them may be narrower: the input of a
    `linear`, its result, and the KV cache.
    """

    cache_element: int  # TensorProto's type of the KV cache

    def rows_change(self) -> None:
        """From here on activations have another number of rows."""

    def narrow(self, path: str, x: str) -> str:
        """The float32 `x` as the input of products."""

    def widen(self, path: str, x: str) -> str:
        """A product as float32."""

    def linear(
        self, path: str, x: str, weight: Floats, bias: Floats | None = None, lowest: float | None = None
    ) -> str:
        """`x @ weight (+ bias)`; `weight` is `[in, out]`, and no value of `x` lies below `lowest`."""

    def fused_bias(self, path: str, bias: Floats) -> str:
        """The bias of the product `path` for the operator after it, on float32; call it after `linear`."""

    def narrow_bias(self, path: str, bias: Floats) -> str:
        """The same for an operator that works on the product as it is."""

    def embedding(self, path: str, ids: str, table: Floats) -> str:
        """Rows of `table` `[vocab, hidden]`."""

    def unembedding(self, path: str, x: str, table_path: str, table: Floats, output: str) -> str:
        """`x @ table.T` into the tensor `output`; `table_path` names the look-up that shares the table."""

    def small_head(self, path: str, x: str, weight: Floats, bias: Floats | None, output: str) -> str:
        """`x @ weight.T (+ bias)` into the tensor `output`, for the few columns of a classification head."""


class FullWeights:
    """float32 throughout."""

    cache_element = TensorProto.FLOAT

    def __init__(self, graph: GraphBuilder) -> None:
        self._graph = graph

    def rows_change(self) -> None:
        """Nothing here depends on their number."""

    def narrow(self, path: str, x: str) -> str:
        return x

    def widen(self, path: str, x: str) -> str:
        return x

    def linear(
        self, path: str, x: str, weight: Floats, bias: Floats | None = None, lowest: float | None = None
    ) -> str:
        product = self._graph.node("MatMul", path, [x, self._graph.weight(f"{path}.weight", weight)])
        if bias is None:
            return product
        return self._graph.node("Add", f"{path}.add", [product, self._graph.weight(f"{path}.bias", bias)])

    def fused_bias(self, path: str, bias: Floats) -> str:
        return self._graph.weight(f"{path}.bias", bias)

    def narrow_bias(self, path: str, bias: Floats) -> str:
        return self.fused_bias(path, bias)

    def embedding(self, path: str, ids: str, table: Floats) -> str:
        return self._graph.node("Gather", path, [self._graph.weight(f"{path}.weight", table), ids])

    def unembedding(self, path: str, x: str, table_path: str, table: Floats, output: str) -> str:
        weight = self._graph.weight(f"{table_path}.weight", table)
        return self._graph.node("Gemm", path, [x, weight], outputs=[output], transB=1)

    def small_head(self, path: str, x: str, weight: Floats, bias: Floats | None, output: str) -> str:
        return small_head(self._graph, path, x, weight, bias, output)


def small_head(
    graph: GraphBuilder, path: str, x: str, weight: Floats, bias: Floats | None, output: str
) -> str:
    """A head of a few columns: float32 in every variant, it costs nothing, and its error is the answer's."""
    columns = graph.weight(f"{path}.weight", np.ascontiguousarray(weight.T))
    if bias is None:
        return graph.node("MatMul", path, [x, columns], outputs=[output])
    product = graph.node("MatMul", path, [x, columns])
    return graph.node("Add", f"{path}.add", [product, graph.weight(f"{path}.bias", bias)], outputs=[output])
