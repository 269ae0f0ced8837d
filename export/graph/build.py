"""The graph of each kind, and one call from a checkpoint to a written graph of one variant.

Inputs and outputs are `contract.LmGraph` for kind `lm`, and `contract.HeadGraph` for `classifier` and `nlu`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import TensorProto

from export.checkpoint.config import Head
from export.checkpoint.folder import SLOT_TRANSITIONS, Checkpoint
from export.errors import CheckpointError
from export.graph.body import AttentionInputs, Body
from export.graph.builder import GraphBuilder
from export.graph.fp16 import Fp16Weights
from export.graph.int4 import Int4Weights
from export.graph.int8 import Int8Weights
from export.graph.ngrams import add_ngram_logits
from export.graph.weights import Weights
from runtime.contract import HeadGraph, Kind, LmGraph, Variant
from runtime.golden_rules import transitions_problem


def write_graph(checkpoint: Checkpoint, variant: Variant, path: Path) -> list[Path]:
    """Write the graph of `variant` to `path`; returns the files written, the graph first."""
    return build_graph(checkpoint, _WEIGHTS[variant], path)


def build_graph(checkpoint: Checkpoint, weights: Callable[[GraphBuilder], Weights], path: Path) -> list[Path]:
    """`write_graph` with any class of weights, to compare them."""
    kind = checkpoint.config.head.kind
    graph = GraphBuilder(f"{kind.value}.{path.parent.name}", path)
    _GRAPHS[kind](graph, checkpoint, weights(graph))
    checkpoint.release()
    return graph.save()


# input_ids, position_ids --- body (logit_rows) --- hidden --- lm_head --- logits
#                             /            \
#                         past_*         present_*
def _build_language_model(graph: GraphBuilder, checkpoint: Checkpoint, weights: Weights) -> None:
    config = checkpoint.config
    sequence: list[int | str] = ["batch", "sequence"]
    graph.input(LmGraph.INPUT_IDS, TensorProto.INT64, sequence)
    graph.input(LmGraph.POSITION_IDS, TensorProto.INT64, sequence)
    graph.input(LmGraph.SEQLENS_K, TensorProto.INT32, ["batch"])
    graph.input(LmGraph.TOTAL_SEQUENCE_LENGTH, TensorProto.INT32, [])
    graph.input(LmGraph.LOGIT_ROWS, TensorProto.INT64, ["rows"])
    graph.output(LmGraph.LOGITS, TensorProto.FLOAT, ["rows", config.vocab_size])
    graph.output(LmGraph.HIDDEN, TensorProto.FLOAT, ["rows", config.hidden_size])
    for layer, heads in enumerate(config.layer_heads):
        cache: list[int | str] = ["batch", heads, "context", config.architecture.head_size]
        graph.input(LmGraph.past_key(layer), weights.cache_element, cache)
        graph.input(LmGraph.past_value(layer), weights.cache_element, cache)
        graph.output(LmGraph.present_key(layer), weights.cache_element, cache)
        graph.output(LmGraph.present_value(layer), weights.cache_element, cache)
    attention = AttentionInputs(LmGraph.SEQLENS_K, LmGraph.TOTAL_SEQUENCE_LENGTH, cached=True)
    body = Body(graph, checkpoint, weights, attention)
    hidden = body.build(LmGraph.INPUT_IDS, LmGraph.POSITION_IDS, LmGraph.LOGIT_ROWS, LmGraph.HIDDEN)
    head = "wte" if config.tied else "lm_head"
    weights.unembedding("lm_head", hidden, head, checkpoint.weight(f"{head}.weight"), LmGraph.LOGITS)


# input_ids, positions --- body (last rows) --- score --- (+ n-grams) --- logits
def _build_classifier(graph: GraphBuilder, checkpoint: Checkpoint, weights: Weights) -> None:
    sequence = _add_inputs(graph)
    body = _body(graph, checkpoint, weights, sequence)
    hidden = body.build(
        HeadGraph.INPUT_IDS, _positions(graph, sequence), _last_rows(graph, sequence), "ln_f.out"
    )
    graph.output(HeadGraph.LOGITS, TensorProto.FLOAT, ["batch", len(checkpoint.config.labels)])
    output = _label_output(checkpoint)
    weights.small_head("score", hidden, checkpoint.weight("score.weight"), None, output)
    add_ngram_logits(graph, checkpoint, sequence, output)


# input_ids, positions --- body --- hidden --- slot_head ------------------- slot_logits
#                                         \--- last rows --- intent_head --- logits
def _build_nlu(graph: GraphBuilder, checkpoint: Checkpoint, weights: Weights) -> None:
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
    output = _label_output(checkpoint)
    _add_head(graph, checkpoint, weights, "intent_head", last, output)
    if config.slot_transitions:
        graph.output(HeadGraph.SLOT_TRANSITIONS, TensorProto.FLOAT, [slots + 1, slots])
        table = checkpoint.weight(SLOT_TRANSITIONS)
        problem = transitions_problem(table.shape, table.min(), table.max(), slots)
        if problem is not None:
            raise CheckpointError(f"tensor {SLOT_TRANSITIONS}: {problem}", field=SLOT_TRANSITIONS)
        name = graph.weight(SLOT_TRANSITIONS, table)
        graph.node("Identity", HeadGraph.SLOT_TRANSITIONS, [name], outputs=[HeadGraph.SLOT_TRANSITIONS])
    add_ngram_logits(graph, checkpoint, sequence, output)


def _label_output(checkpoint: Checkpoint) -> str:
    return HeadGraph.LOGITS if checkpoint.config.ngrams is None else "labels.body"


def _add_inputs(graph: GraphBuilder) -> str:
    """Returns the padded length of a row, `[1]` int64."""
    graph.input(HeadGraph.INPUT_IDS, TensorProto.INT64, ["batch", "sequence"])
    graph.input(HeadGraph.LENGTHS, TensorProto.INT64, ["batch"])
    return graph.node("Shape", "sequence", [HeadGraph.INPUT_IDS], start=1, end=2)


def _body(graph: GraphBuilder, checkpoint: Checkpoint, weights: Weights, sequence: str) -> Body:
    """Padding on the right changes nothing: attention is causal, or reads `lengths` tokens of a row."""
    less_one = graph.node("Sub", "lengths.less_one", [HeadGraph.LENGTHS, graph.integers(1)])
    seqlens_k = graph.node("Cast", "seqlens_k", [less_one], to=TensorProto.INT32)
    scalar = graph.node("Squeeze", "total.scalar", [sequence])
    total = graph.node("Cast", "total", [scalar], to=TensorProto.INT32)
    lengths = ""
    if checkpoint.config.bidirectional:
        lengths = graph.node("Cast", "lengths.narrow", [HeadGraph.LENGTHS], to=TensorProto.INT32)
    return Body(graph, checkpoint, weights, AttentionInputs(seqlens_k, total, cached=False, lengths=lengths))


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


_GRAPHS = {Kind.LM: _build_language_model, Kind.CLASSIFIER: _build_classifier, Kind.NLU: _build_nlu}
_WEIGHTS: dict[Variant, Callable[[GraphBuilder], Weights]] = {
    Variant.FP32: Weights,
    Variant.FP16: Fp16Weights,
    Variant.INT8: Int8Weights,
    Variant.INT4: Int4Weights,
}
