"""The graphs of kinds `classifier` and `nlu`; their inputs and outputs are `contract.HeadGraph`."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from export.checkpoint.config import Head
from export.checkpoint.folder import Checkpoint
from export.graph.body import AttentionInputs, Body
from export.graph.builder import GraphBuilder
from export.graph.weights import Weights
from runtime.contract import HeadGraph


# input_ids, positions --- body (last rows) --- score --- logits
def build_classifier(graph: GraphBuilder, checkpoint: Checkpoint, weights: Weights) -> None:
    sequence = _add_inputs(graph)
    body = _body(graph, checkpoint, weights, sequence)
    hidden = body.build(
        HeadGraph.INPUT_IDS, _positions(graph, sequence), _last_rows(graph, sequence), "ln_f.out"
    )
    graph.output(HeadGraph.LOGITS, TensorProto.FLOAT, ["batch", len(checkpoint.config.labels)])
    weights.small_head("score", hidden, checkpoint.weight("score.weight"), None, HeadGraph.LOGITS)


# input_ids, positions --- body --- hidden --- slot_head ------------------- slot_logits
#                                         \--- last rows --- intent_head --- logits
def build_nlu(graph: GraphBuilder, checkpoint: Checkpoint, weights: Weights) -> None:
    """Slots alone (GPT2ForTokenClassification) have no intents: their `logits` are `[batch, 0]`."""
    config = checkpoint.config
    sequence = _add_inputs(graph)
    body = _body(graph, checkpoint, weights, sequence)
    hidden = body.build(HeadGraph.INPUT_IDS, _positions(graph, sequence), None, "ln_f.out")
    slots = len(config.slot_labels)
    graph.output(HeadGraph.LOGITS, TensorProto.FLOAT, ["batch", len(config.labels)])
    graph.output(HeadGraph.SLOT_LOGITS, TensorProto.FLOAT, ["batch", "sequence", slots])
    slot_head = "classifier" if config.head is Head.TOKEN else "slot_head"
    _add_head(graph, checkpoint, weights, slot_head, hidden, f"{slot_head}.flat")
    sides = graph.node("Shape", "slots.sides", [HeadGraph.INPUT_IDS])
    shape = graph.node("Concat", "slots.shape", [sides, graph.integers(slots)], axis=0)
    graph.node("Reshape", "slots", [f"{slot_head}.flat", shape], outputs=[HeadGraph.SLOT_LOGITS])
    if config.head is Head.TOKEN:
        batch = graph.node("Shape", "intent_head.batch", [HeadGraph.LENGTHS])
        shape = graph.node("Concat", "intent_head.shape", [batch, graph.integers(0)], axis=0)
        graph.node("ConstantOfShape", "intent_head", [shape], outputs=[HeadGraph.LOGITS])
        return
    last = graph.node("Gather", "intent_head.rows", [hidden, _last_rows(graph, sequence)])
    _add_head(graph, checkpoint, weights, "intent_head", last, HeadGraph.LOGITS)


def _add_inputs(graph: GraphBuilder) -> str:
    """Returns the padded length of a row, `[1]` int64."""
    graph.input(HeadGraph.INPUT_IDS, TensorProto.INT64, ["batch", "sequence"])
    graph.input(HeadGraph.LENGTHS, TensorProto.INT64, ["batch"])
    return graph.node("Shape", "sequence", [HeadGraph.INPUT_IDS], start=1, end=2)


def _body(graph: GraphBuilder, checkpoint: Checkpoint, weights: Weights, sequence: str) -> Body:
    """Causal attention keeps the padding on the right out of every real position; lengths only save work."""
    less_one = graph.node("Sub", "lengths.less_one", [HeadGraph.LENGTHS, graph.integers(1)])
    seqlens_k = graph.node("Cast", "seqlens_k", [less_one], to=TensorProto.INT32)
    scalar = graph.node("Squeeze", "total.scalar", [sequence])
    total = graph.node("Cast", "total", [scalar], to=TensorProto.INT32)
    return Body(graph, checkpoint, weights, AttentionInputs(seqlens_k, total, cached=False))


# sequence --- Range 0 .. sequence --- Unsqueeze --- [1, sequence]
def _positions(graph: GraphBuilder, sequence: str) -> str:
    zero, one = _scalar(graph, 0), _scalar(graph, 1)
    limit = graph.node("Squeeze", "positions.limit", [sequence])
    numbers = graph.node("Range", "positions.range", [zero, limit, one])
    row = graph.node("Unsqueeze", "positions.row", [numbers, graph.integers(0)])
    shape = graph.node("Shape", "positions.shape", [HeadGraph.INPUT_IDS])
    return graph.node("Expand", "positions", [row, shape])


# Range 0 .. batch --- * sequence --- + lengths --- - 1 --- rows of batch * sequence
def _last_rows(graph: GraphBuilder, sequence: str) -> str:
    batch = graph.node("Squeeze", "last.batch", [graph.node("Shape", "last.shape", [HeadGraph.LENGTHS])])
    numbers = graph.node("Range", "last.range", [_scalar(graph, 0), batch, _scalar(graph, 1)])
    starts = graph.node("Mul", "last.starts", [numbers, sequence])
    ends = graph.node("Add", "last.ends", [starts, HeadGraph.LENGTHS])
    return graph.node("Sub", "last", [ends, graph.integers(1)])


def _scalar(graph: GraphBuilder, value: int) -> str:
    return graph.weight(f"scalar.{value}", np.array(value, np.int64))


def _add_head(
    graph: GraphBuilder, checkpoint: Checkpoint, weights: Weights, path: str, x: str, output: str
) -> None:
    weight, bias = checkpoint.weight(f"{path}.weight"), checkpoint.weight(f"{path}.bias")
    weights.small_head(path, x, weight, bias, output)
