"""How weights enter a graph: one class per precision, with which the same body is built."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from export.graph.builder import GraphBuilder

Floats = NDArray[np.float32]


class Weights:
    """Adds matrix products and look-ups to a graph, over activations `[rows, features]`; here in float32.

    The residual stream and the norms are float32 in every precision. In a subclass the input and the result
    of a `linear`, and the KV cache, may be narrower.
    """

    cache_element: int = TensorProto.FLOAT  # of the KV cache

    def __init__(self, graph: GraphBuilder) -> None:
        self._graph = graph

    def rows_change(self) -> None:
        """Called where the number of rows of the activations changes."""

    def narrow(self, path: str, x: str) -> str:
        """The float32 `x`, cast to the type of products' inputs."""
        return x

    def widen(self, path: str, x: str) -> str:
        """A product, cast to float32."""
        return x

    def linear(
        self, path: str, x: str, weight: Floats, bias: Floats | None = None, lowest: float | None = None
    ) -> str:
        """`x @ weight (+ bias)`; `weight` is `[in, out]`, and no value of `x` is below `lowest`."""
        product = self._graph.node("MatMul", path, [x, self._weight(f"{path}.weight", weight)])
        return self._with_bias(path, product, bias)

    def fused_bias(self, path: str, bias: Floats) -> str:
        """The bias of the product `path`, for a float32 operator after it; call it after `linear`."""
        return self._graph.weight(f"{path}.bias", bias)

    def narrow_bias(self, path: str, bias: Floats) -> str:
        """The same for an operator in the product's own type."""
        return self.fused_bias(path, bias)

    def embedding(self, path: str, ids: str, table: Floats) -> str:
        """Rows of `table` `[vocab, hidden]`."""
        return self._graph.node("Gather", path, [self._weight(f"{path}.weight", table), ids])

    def unembedding(self, path: str, x: str, table_path: str, table: Floats, output: str) -> str:
        """`x @ table.T` into the tensor `output`; `table_path` names the look-up that shares the table."""
        weight = self._weight(f"{table_path}.weight", table)
        return self._graph.node("Gemm", path, [x, weight], outputs=[output], transB=1)

    def small_head(self, path: str, x: str, weight: Floats, bias: Floats | None, output: str) -> str:
        """`x @ weight.T (+ bias)` into the tensor `output`, for the few columns of a classification head.

        It is float32 in every precision: that costs little, and its error would be the answer's.
        """
        graph = self._graph
        columns = graph.weight(f"{path}.weight", np.ascontiguousarray(weight.T))
        if bias is None:
            return graph.node("MatMul", path, [x, columns], outputs=[output])
        product = graph.node("MatMul", path, [x, columns])
        return graph.node(
            "Add", f"{path}.add", [product, graph.weight(f"{path}.bias", bias)], outputs=[output]
        )

    def _weight(self, name: str, array: Floats) -> str:
        """An initializer in the type of products' inputs."""
        return self._graph.weight(name, array)

    def _with_bias(self, path: str, product: str, bias: Floats | None) -> str:
        if bias is None:
            return product
        return self._graph.node("Add", f"{path}.add", [product, self.narrow_bias(path, bias)])
