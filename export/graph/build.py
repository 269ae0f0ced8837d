"""One call from a checkpoint to a written graph of one variant."""

from __future__ import annotations

from pathlib import Path

from export.checkpoint import Checkpoint
from export.graph.builder import GraphBuilder
from export.graph.heads import build_classifier, build_nlu
from export.graph.language_model import build_language_model
from export.graph.weights import FullWeights, Weights
from export.quantize import EightBitWeights
from runtime.contract import Kind, Variant

_GRAPHS = {Kind.LM: build_language_model, Kind.CLASSIFIER: build_classifier, Kind.NLU: build_nlu}


def write_graph(checkpoint: Checkpoint, variant: Variant, path: Path) -> list[Path]:
    """Write the graph of `variant` to `path`; returns the files written, the graph first."""
    kind = checkpoint.config.head.kind
    graph = GraphBuilder(f"{kind.value}.{variant.value}")
    weights: Weights = EightBitWeights(graph) if variant is Variant.INT8 else FullWeights(graph)
    _GRAPHS[kind](graph, checkpoint, weights)
    return graph.save(path)
