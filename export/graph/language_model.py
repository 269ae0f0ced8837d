"""The graph of kind `lm`; its inputs and outputs are `contract.LmGraph`."""

from __future__ import annotations

from onnx import TensorProto

from export.checkpoint.folder import Checkpoint
from export.graph.body import AttentionInputs, Body
from export.graph.builder import GraphBuilder
from export.graph.weights import Weights
from runtime.contract import LmGraph


# input_ids, position_ids --- body (logit_rows) --- hidden --- lm_head --- logits
#                             /            \
#                         past_*         present_*
def build_language_model(graph: GraphBuilder, checkpoint: Checkpoint, weights: Weights) -> None:
    config = checkpoint.config
    sequence: list[int | str] = ["batch", "sequence"]
    graph.input(LmGraph.INPUT_IDS, TensorProto.INT64, sequence)
    graph.input(LmGraph.POSITION_IDS, TensorProto.INT64, sequence)
    graph.input(LmGraph.SEQLENS_K, TensorProto.INT32, ["batch"])
    graph.input(LmGraph.TOTAL_SEQUENCE_LENGTH, TensorProto.INT32, [])
    graph.input(LmGraph.LOGIT_ROWS, TensorProto.INT64, ["rows"])
    graph.output(LmGraph.LOGITS, TensorProto.FLOAT, ["rows", config.vocab_size])
    graph.output(LmGraph.HIDDEN, TensorProto.FLOAT, ["rows", config.hidden_size])
    cache: list[int | str] = ["batch", config.num_heads, "context", config.architecture.head_size]
    for layer in range(config.num_layers):
        graph.input(LmGraph.past_key(layer), weights.cache_element, cache)
        graph.input(LmGraph.past_value(layer), weights.cache_element, cache)
        graph.output(LmGraph.present_key(layer), weights.cache_element, cache)
        graph.output(LmGraph.present_value(layer), weights.cache_element, cache)
    attention = AttentionInputs(LmGraph.SEQLENS_K, LmGraph.TOTAL_SEQUENCE_LENGTH, cached=True)
    body = Body(graph, checkpoint, weights, attention)
    hidden = body.build(LmGraph.INPUT_IDS, LmGraph.POSITION_IDS, LmGraph.LOGIT_ROWS, LmGraph.HIDDEN)
    head = "wte" if config.tied else "lm_head"
    weights.unembedding("lm_head", hidden, head, checkpoint.weight(f"{head}.weight"), LmGraph.LOGITS)
