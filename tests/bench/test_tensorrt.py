"""The graph in standard operators answers as fp32 does, and has nothing of ONNX Runtime's own."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from bench.tensorrt import difference
from export.pipeline import export_checkpoint
from runtime.contract import LmGraph, Variant
from runtime.cuda.standard import standard_model
from tests.export.checkpoints import CONTEXT, save_lm


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("standard")
    (folder / "checkpoint").mkdir()
    save_lm(folder / "checkpoint")
    export_checkpoint(
        folder / "checkpoint", folder / "artifact", name="tiny", variants=[Variant.FP32, Variant.FP16]
    )
    return folder / "artifact"


@pytest.mark.parametrize(("variant", "most"), [(Variant.FP32, 2e-5), (Variant.FP16, 0.02)])
def test_answers_are_those_of_fp32(artifact: Path, variant: Variant, most: float) -> None:
    assert difference(artifact, variant) <= most


@pytest.mark.parametrize("masked", [True, False])
def test_a_graph_has_standard_operators_alone(artifact: Path, masked: bool) -> None:
    model = standard_model(artifact / "fp16" / "model.onnx", CONTEXT, masked=masked)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    attentions = [node for node in model.graph.node if node.op_type == "Attention"]
    assert {len(node.input) for node in attentions} == {4 if masked else 3}
    names = {value.name for value in model.graph.input}
    assert {LmGraph.POSITION_IDS, LmGraph.SEQLENS_K, LmGraph.LOGIT_ROWS} <= names
    assert LmGraph.TOTAL_SEQUENCE_LENGTH not in names
