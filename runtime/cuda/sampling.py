"""The choice of the next token inside graphs, in operators that every provider of ONNX Runtime has.

In a GPU's memory, a row of logits is expensive to copy to the host; a token is not. The graphs compute what
`runtime/sampling` computes on the host. The best token is found in the graph of the model. A graph of its
own draws: temperature, top-k with all tokens that tie with the k-th, min-p, and a draw over blocks of BLOCK
tokens by a random number from the host. ONNX Runtime runs all nodes of a graph, also where no output of
theirs is fetched (1.31.1, measured by `make test-cuda`): greedy steps would compute the draw otherwise.

The operators are those with CUDA kernels for opset 21. ONNX Runtime does not use a kernel of an older version
for a newer operator (VerifyVersion in onnxruntime/core/framework/kernel_registry.cc): Equal, Pad and
ReduceMax would run on the host, and the graph could not be captured (docs/OperatorKernels.md). ArgMax does
not define which of equal values it returns. CumSum adds from the beginning for each of its elements, so rows
are short where it is used. GatherND and Concat copy sizes from the host, which a captured graph cannot do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from kernels.fusion import ARGMAX, LOG_SUM
from runtime.contract import LmGraph

LOGITS = LmGraph.LOGITS
INVERSE_TEMPERATURE = "inverse_temperature"
TOP_K = "top_k"  # at most MAX_TOP_K; 0: all
MIN_P = "min_p"
UNIFORM = "uniform"  # 0 <= u < 1
PEAK = "peak"  # the largest logit
DRAWN = "drawn"
DRAWN_LOGIT = "drawn_logit"
# One value for each row: [rows, 1] of inputs, [rows] of outputs.
DRAW_INPUTS: dict[str, DTypeLike] = {
    INVERSE_TEMPERATURE: np.float32,
    TOP_K: np.int64,
    MIN_P: np.float32,
    UNIFORM: np.float64,
}
BEST_OUTPUTS: dict[str, DTypeLike] = {ARGMAX: np.int64, LOG_SUM: np.float32, PEAK: np.float32}
DRAW_OUTPUTS: dict[str, DTypeLike] = {DRAWN: np.int64, DRAWN_LOGIT: np.float32}

MAX_TOP_K = 64
BLOCK = 256
# A sum times this is below the sum: no draw falls after the last weight.
_BELOW_ONE = 1.0 - 2.0**-53


def append_best(model: onnx.ModelProto, logits: str) -> None:
    """Add ARGMAX, LOG_SUM and PEAK to a graph whose output `logits` is [rows, vocab] float32."""
    shape = next(value for value in model.graph.output if value.name == logits).type.tensor_type.shape
    rows, vocab = shape.dim[0].dim_param, shape.dim[1].dim_value
    nodes = _Nodes(model.graph)
    peak = nodes.largest("peak.column", logits)
    nodes.add("Reshape", PEAK, peak, nodes.integers(-1), output=PEAK)
    _best(nodes, logits, peak, vocab)
    shifted = nodes.add("Sub", "shifted", logits, peak)
    total = nodes.add("ReduceSum", "total", nodes.add("Exp", "exp", shifted), nodes.integers(-1), keepdims=0)
    nodes.add("Add", LOG_SUM, PEAK, nodes.add("Log", "total.log", total), output=LOG_SUM)
    for name, element in BEST_OUTPUTS.items():
        model.graph.output.append(helper.make_tensor_value_info(name, _element(element), [rows]))


def draw_graph(vocab: int) -> onnx.ModelProto:
    """From LOGITS [rows, vocab] and PEAK [rows] to DRAWN and DRAWN_LOGIT."""
    inputs = [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["rows", vocab])]
    inputs.append(helper.make_tensor_value_info(PEAK, TensorProto.FLOAT, ["rows"]))
    for name, dtype in DRAW_INPUTS.items():
        inputs.append(helper.make_tensor_value_info(name, _element(dtype), ["rows", 1]))
    outputs = [
        helper.make_tensor_value_info(name, _element(dtype), ["rows"]) for name, dtype in DRAW_OUTPUTS.items()
    ]
    graph = helper.make_graph([], "draw", inputs, outputs)
    nodes = _Nodes(graph)
    shifted = nodes.add("Sub", "shifted", LOGITS, nodes.add("Reshape", "peak", PEAK, nodes.integers(-1, 1)))
    drawn = _draw(nodes, _weights(nodes, shifted, min(MAX_TOP_K, vocab)), vocab)
    nodes.add("Reshape", DRAWN, drawn, nodes.integers(-1), output=DRAWN)
    logit = nodes.add("GatherElements", "drawn.logit", LOGITS, drawn, axis=1)
    nodes.add("Reshape", DRAWN_LOGIT, logit, nodes.integers(-1), output=DRAWN_LOGIT)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _element(dtype: DTypeLike) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


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
    passing = _passing(nodes, "block", sums, blocks, UNIFORM)
    block, share = passing.place, _share(nodes, passing)
    start = nodes.add("Mul", "block.start", block, nodes.integers(BLOCK))
    inside = nodes.add("Add", "token.places", start, nodes.integers(*range(BLOCK)))
    flat = nodes.add("Reshape", "block.flat", folded, nodes.integers(0, blocks * BLOCK))
    inner = nodes.add("GatherElements", "token.weights", flat, inside, axis=1)
    within = _passing(nodes, "token", inner, BLOCK, share).place
    drawn = nodes.add("Add", "token.place", start, within)
    return nodes.add("Min", "drawn.column", drawn, nodes.integers(vocab - 1))


class _Passing(NamedTuple):
    """Where a draw falls; `[rows, 1]` each but for the first two, `[rows, count]`."""

    weights: str  # float64
    running: str  # their running sum
    place: str  # int64: where that passes `target`
    target: str


def _passing(nodes: _Nodes, path: str, weights: str, count: int, uniform: str) -> _Passing:
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
    whole = nodes.add("Cast", f"{path}.count", number, to=TensorProto.INT64)
    return _Passing(wide, running, nodes.add("Min", f"{path}.index", whole, last), target)


def _share(nodes: _Nodes, passing: _Passing) -> str:
    """How far into the weight the draw falls, as a share of it; `[rows, 1]` float64."""
    weight = nodes.add("GatherElements", "share.weight", passing.weights, passing.place, axis=1)
    after = nodes.add("GatherElements", "share.after", passing.running, passing.place, axis=1)
    before = nodes.add("Sub", "share.before", after, weight)
    into = nodes.add("Sub", "share.into", passing.target, before)
    share = nodes.add("Div", "share", into, weight)
    return nodes.add("Max", "share.positive", share, nodes.doubles(0.0))


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
