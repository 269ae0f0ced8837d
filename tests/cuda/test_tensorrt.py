"""TensorRT's parser reads the graph in standard operators, and uses all that the graph says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from bench.tensorrt import parse
from export.graph.standard import MASK, write_standard
from tests.cuda.conftest import CONTEXT

pytestmark = pytest.mark.cuda
LAYERS = 12


@pytest.fixture(scope="module")
def standard(write_fp16: Callable[..., Path]) -> Path:
    source = write_fp16()
    graph = source.with_name("standard.onnx")
    write_standard(source, graph, CONTEXT)
    return graph


def test_every_operator_and_every_input_is_used(standard: Path) -> None:
    parsed = parse(standard)
    assert (parsed.errors, parsed.unused) == ([], [])
    assert parsed.layers["KV_CACHE_UPDATE"] == 2 * LAYERS
    assert parsed.layers["ATTENTION_INPUT"] == LAYERS
    assert parsed.layers["MATRIX_MULTIPLY"] == 4 * LAYERS + 1


def test_an_input_that_is_ignored_is_seen(standard: Path) -> None:
    """As `nonpad_kv_seqlen` is: without its mask, each Attention would read rows that nothing has written."""
    model = onnx.load(standard, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "Attention":
            del node.input[3:]
    changed = standard.with_name("changed.onnx")
    onnx.save(model, changed)
    assert parse(changed).unused == [MASK]


def test_the_graph_of_onnx_runtime_s_operators_is_refused(standard: Path) -> None:
    errors = parse(standard.with_name("model.onnx")).errors
    assert errors
    assert all("Plugin not found" in error for error in errors)
