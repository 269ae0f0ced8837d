"""One call from a checkpoint to a written graph of one variant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from export.checkpoint.folder import Checkpoint
from export.graph.builder import GraphBuilder
from export.graph.eight_bit import EightBitWeights
from export.graph.four_bit import FourBitWeights
from export.graph.half import HalfWeights
from export.graph.heads import build_classifier, build_nlu
from export.graph.language_model import build_language_model
from export.graph.weights import FullWeights, Weights
from runtime.contract import Kind, Variant

_GRAPHS = {Kind.LM: build_language_model, Kind.CLASSIFIER: build_classifier, Kind.NLU: build_nlu}
_WEIGHTS: dict[Variant, Callable[[GraphBuilder], Weights]] = {
    Variant.FP32: FullWeights,
    Variant.FP16: HalfWeights,
    Variant.INT8: EightBitWeights,
    Variant.INT4: FourBitWeights,
}


def write_graph(checkpoint: Checkpoint, variant: Variant, path: Path) -> list[Path]:
    """Write the graph of `variant` to `path`; returns the files written, the graph first."""
    return build_graph(checkpoint, _WEIGHTS[variant], path)


def build_graph(checkpoint: Checkpoint, weights: Callable[[GraphBuilder], Weights], path: Path) -> list[Path]:
    """`write_graph` with weights of any other make, to compare them."""
    kind = checkpoint.config.head.kind
    graph = GraphBuilder(f"{kind.value}.{path.parent.name}", path)
    _GRAPHS[kind](graph, checkpoint, weights(graph))
    checkpoint.release()
    return graph.save()
