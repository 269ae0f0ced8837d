"""The nodes of plain graphs stay as they are: a new kind of checkpoint changes no graph that others have."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from runtime.contract import GRAPH_FILE

# Change a line where a graph has to change, and say in CHANGELOG.md that exports differ from then on.
GOLDEN: dict[tuple[str, str], str] = {
    ("lm", "fp32"): "fc262fd6bf87c34a",
    ("lm", "fp16"): "88c7127cc62be20f",
    ("lm", "int8"): "17f80eb8223d353b",
    ("lm", "int4"): "ef245ea7358d8f0b",
    ("classifier", "fp32"): "c40c58e182ca2954",
    ("classifier", "fp16"): "78fb7a27d28ca6bf",
    ("classifier", "int8"): "f93d646f610b835a",
    ("classifier", "int4"): "d890789cda97fb00",
    ("tagger", "fp32"): "c578bc04d669feb3",
    ("tagger", "fp16"): "a76ab81a1779d08f",
    ("tagger", "int8"): "f60c5ae096fbdf88",
    ("tagger", "int4"): "bfb1b2b125c050c8",
    ("nlu", "fp32"): "6ff1e45c2404841f",
    ("nlu", "fp16"): "b4bc456ba719669e",
    ("nlu", "int8"): "c8621ba3e18e28f2",
    ("nlu", "int4"): "de9ddce6a0436d39",
}


@pytest.mark.parametrize(("kind", "variant"), list(GOLDEN))
def test_a_plain_graph_is_unchanged(kind: str, variant: str, artifact: Callable[[str], Path]) -> None:
    assert fingerprint(artifact(kind) / variant / GRAPH_FILE) == GOLDEN[kind, variant]


def fingerprint(path: Path) -> str:
    """Of nodes, inputs, outputs, and of the names, types and shapes of weights, but not of their values."""
    graph = onnx.load(path).graph
    parts = [
        part.SerializeToString(deterministic=True) for part in (*graph.node, *graph.input, *graph.output)
    ]
    parts += [f"{item.name} {item.data_type} {list(item.dims)}".encode() for item in graph.initializer]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:16]
