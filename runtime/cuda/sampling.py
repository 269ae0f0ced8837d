"""Sampling of the next token inside a graph, in operators that every provider of ONNX Runtime has.

In a GPU's memory, a row of logits is expensive to copy to the host; a token is not. The graph computes what
`runtime/sampling` computes on the host: temperature, top-k with all tokens that tie with the k-th, min-p, and
a draw over blocks of BLOCK tokens by a random number from the host. A run that does not ask for DRAWN does
not compute it (`RunOptions.only_execute_path_to_fetches`).

The operators are those with CUDA kernels for opset 21. ONNX Runtime does not use a kernel of an older version
for a newer operator (VerifyVersion in onnxruntime/core/framework/kernel_registry.cc): Equal, Pad and
ReduceMax would run on the host, and the graph could not be captured (docs/OperatorKernels.md). ArgMax does
not define which of equal values it returns. CumSum adds from the beginning for each of its elements, so rows
are short where it is used. GatherND and Concat copy sizes from the host, which a captured graph cannot do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kernels.fusion import ARGMAX, LOG_SUM

# Inputs, [rows, 1] each.
INVERSE_TEMPERATURE = "inverse_temperature"  # float32
TOP_K = "top_k"  # int64, at most MAX_TOP_K; 0: all
MIN_P = "min_p"  # float32
UNIFORM = "uniform"  # float64, 0 <= u < 1
# Outputs, [rows] each, beside ARGMAX and LOG_SUM.
PEAK = "peak"  # float32: the largest logit
DRAWN = "drawn"  # int64
DRAWN_LOGIT = "drawn_logit"  # float32

MAX_TOP_K = 64
BLOCK = 256
# A sum times this is below the sum: no draw falls after the last weight.
_BELOW_ONE = 1.0 - 2.0**-53


def append_sampling(model: onnx.ModelProto, logits: str) -> None:
    """Add the outputs above to a graph whose output `logits` is [rows, vocab] float32."""
    shape = next(value for value in model.graph.output if value.name == logits).type.tensor_type.shape
    rows, vocab = shape.dim[0].dim_param, shape.dim[1].dim_value
    nodes = _Nodes(model.graph)
    peak = nodes.largest("peak.column", logits)
    nodes.add("Reshape", PEAK, peak, nodes.integers(-1), output=PEAK)
    _best(nodes, logits, peak, vocab)
    shifted = nodes.add("Sub", "shifted", logits, peak)
    total = nodes.add("ReduceSum", "total", nodes.add("Exp", "exp", shifted), nodes.integers(-1), keepdims=0)
    nodes.add("Add", LOG_SUM, PEAK, nodes.add("Log", "total.log", total), output=LOG_SUM)
    drawn = _draw(nodes, _weights(nodes, shifted, min(MAX_TOP_K, vocab)), vocab)
    nodes.add("Reshape", DRAWN, drawn, nodes.integers(-1), output=DRAWN)
    logit = nodes.add("GatherElements", "drawn.logit", logits, drawn, axis=1)
    nodes.add("Reshape", DRAWN_LOGIT, logit, nodes.integers(-1), output=DRAWN_LOGIT)
    for name, element in (
        (INVERSE_TEMPERATURE, TensorProto.FLOAT),
        (TOP_K, TensorProto.INT64),
        (MIN_P, TensorProto.FLOAT),
        (UNIFORM, TensorProto.DOUBLE),
    ):
        model.graph.input.append(helper.make_tensor_value_info(name, element, [rows, 1]))
    for name, element in (
        (ARGMAX, TensorProto.INT64),
        (LOG_SUM, TensorProto.FLOAT),
        (PEAK, TensorProto.FLOAT),
        (DRAWN, TensorProto.INT64),
        (DRAWN_LOGIT, TensorProto.FLOAT),
    ):
        model.graph.output.append(helper.make_tensor_value_info(name, element, [rows]))


# logits >= peak ? vocab - place : 0 -- the largest -- vocab less it
def _best(nodes: _Nodes, logits: str, peak: str, vocab: int) -> None:
    """The first of the largest; places are exact in float32."""
    is_largest = nodes.add("GreaterOrEqual", "is_peak", logits, peak)
    ahead = nodes.constant("ahead", np.arange(vocab, 0, -1, dtype=np.float32))
    first = nodes.largest("first", nodes.add("Where", "candidates", is_largest, ahead, nodes.floats(0.0)))
    place = nodes.add("Sub", "first.place", nodes.floats(vocab), first)
    flat = nodes.add("Reshape", "first.flat", place, nodes.integers(-1))
    nodes.add("Cast", ARGMAX, flat, output=ARGMAX, to=TensorProto.INT64)


# shifted * 1/T = scores;  scores >= k-th largest and exp(scores) >= min_p ? exp(scores) : 0
def _weights(nodes: _Nodes, shifted: str, most: int) -> str:
    """The largest weight is 1, so that min-p is a plain bound."""
    scores = nodes.add("Mul", "scores", shifted, INVERSE_TEMPERATURE)
    top = nodes.add("TopK", "top", scores, nodes.integers(most), outputs=2, axis=-1, largest=1, sorted=1)
    last = nodes.add("Sub", "top_k.last", TOP_K, nodes.integers(1))
    place = nodes.add("Max", "top_k.place", last, nodes.integers(0))
    kth = nodes.add("GatherElements", "kth", top, place, axis=1)
    every = nodes.add("LessOrEqual", "top_k.off", TOP_K, nodes.integers(0))
    bound = nodes.add("Where", "bound", every, nodes.floats(-np.inf), kth)
    weights = nodes.add("Exp", "weights.all", scores)
    within = nodes.add("GreaterOrEqual", "within.top_k", scores, bound)
    likely = nodes.add("GreaterOrEqual", "within.min_p", weights, MIN_P)
    kept = nodes.add("And", "within", within, likely)
    return nodes.add("Where", "weights", kept, weights, nodes.floats(0.0))


# weights -- blocks of BLOCK -- sums -- CumSum -- which block -- its weights -- CumSum -- which of it
def _draw(nodes: _Nodes, weights: str, vocab: int) -> str:
    """`[rows, 1]` int64: where the running sum passes UNIFORM of the total. Sums are float64."""
    blocks = -(-vocab // BLOCK)
    places = np.arange(blocks * BLOCK).reshape(blocks, BLOCK)
    # The last block is filled up with the last token, which counts once.
    filled = nodes.constant("block.places", np.minimum(places, vocab - 1))
    gathered = nodes.add("Gather", "block.gathered", weights, filled, axis=1)
    counts = nodes.constant("block.counts", (places < vocab).astype(np.float32))
    folded = nodes.add("Mul", "block.weights", gathered, counts)
    sums = nodes.add("ReduceSum", "block.sums", folded, nodes.integers(2), keepdims=0)
    block, share = _passing(nodes, "block", sums, blocks, UNIFORM)
    start = nodes.add("Mul", "block.start", block, nodes.integers(BLOCK))
    inside = nodes.add("Add", "token.places", start, nodes.integers(*range(BLOCK)))
    flat = nodes.add("Reshape", "block.flat", folded, nodes.integers(0, blocks * BLOCK))
    inner = nodes.add("GatherElements", "token.weights", flat, inside, axis=1)
    within, _ = _passing(nodes, "token", inner, BLOCK, share)
    drawn = nodes.add("Add", "token.place", start, within)
    return nodes.add("Min", "drawn.column", drawn, nodes.integers(vocab - 1))


def _passing(nodes: _Nodes, path: str, weights: str, count: int, uniform: str) -> tuple[str, str]:
    """The index that the draw falls on, and how far into it, as a share of its weight; `[rows, 1]` each."""
    wide = nodes.add("Cast", f"{path}.wide", weights, to=TensorProto.DOUBLE)
    running = nodes.add("CumSum", f"{path}.running", wide, nodes.integers(1))
    last = nodes.integers(count - 1)
    total = nodes.add("Gather", f"{path}.total", running, last, axis=1)
    wanted = nodes.add("Mul", f"{path}.wanted", total, uniform)
    below = nodes.add("Mul", f"{path}.below", total, nodes.doubles(_BELOW_ONE))
    target = nodes.add("Min", f"{path}.target", wanted, below)
    passed = nodes.add("LessOrEqual", f"{path}.passed", running, target)
    ones = nodes.add("Cast", f"{path}.ones", passed, to=TensorProto.FLOAT)
    number = nodes.add("ReduceSum", f"{path}.number", ones, nodes.integers(-1), keepdims=1)
    # If a weight is not a number, the index is still one of the row.
    index = nodes.add(
        "Min", f"{path}.index", nodes.add("Cast", f"{path}.count", number, to=TensorProto.INT64), last
    )
    weight = nodes.add("GatherElements", f"{path}.weight", wide, index, axis=1)
    after = nodes.add("GatherElements", f"{path}.after", running, index, axis=1)
    before = nodes.add("Sub", f"{path}.before", after, weight)
    share = nodes.add("Div", f"{path}.share", nodes.add("Sub", f"{path}.into", target, before), weight)
    return index, nodes.add("Max", f"{path}.positive", share, nodes.doubles(0.0))


class _Nodes:
    """Adds nodes and constants below the name `choice`."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants: set[str] = set()

    def add(
        self, operator: str, path: str, *inputs: str, output: str = "", outputs: int = 1, **attributes: Any
    ) -> str:
        """The first of the node's outputs."""
        name = f"choice.{path}"
        names = [output or name, *(f"{name}.{number}" for number in range(1, outputs))]
        self._graph.node.append(helper.make_node(operator, inputs, names, name=name, **attributes))
        return names[0]

    def largest(self, path: str, tensor: str) -> str:
        """`[rows, 1]` of `[rows, columns]`."""
        one = self.integers(1)
        return self.add("TopK", path, tensor, one, outputs=2, axis=-1, largest=1, sorted=1)

    def constant(self, path: str, array: NDArray[Any]) -> str:
        name = f"choice.constant.{path}"
        if name not in self._constants:
            self._constants.add(name)
            self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(f"int64.{_written(values)}", np.array(values, np.int64))

    def floats(self, value: float) -> str:
        return self.constant(f"float32.{value}", np.array(value, np.float32))

    def doubles(self, value: float) -> str:
        return self.constant(f"float64.{value}", np.array(value, np.float64))


def _written(values: Sequence[int]) -> str:
    return "x".join(map(str, values)) if len(values) <= 4 else f"{values[0]}to{values[-1]}"
