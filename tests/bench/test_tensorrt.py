"""The graph in standard operators answers as fp32 does, and has nothing of ONNX Runtime's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from bench.tensorrt import difference
from export.graph.standard import MASK, WRITE_INDICES, write_standard
from export.pipeline import export_checkpoint
from runtime.contract import LmGraph, Variant
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
def test_answers_are_those_of_fp32(artifact: Path, tmp_path: Path, variant: Variant, most: float) -> None:
    shutil.copy(artifact / variant.value / "model.onnx", tmp_path)
    graph = tmp_path / "standard.onnx"
    write_standard(tmp_path / "model.onnx", graph, CONTEXT)
    assert difference(artifact, graph, variant) <= most
    model = onnx.load(graph)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    names = {value.name for value in model.graph.input}
    assert {MASK, WRITE_INDICES, LmGraph.LOGIT_ROWS} <= names
    assert not {LmGraph.SEQLENS_K, LmGraph.TOTAL_SEQUENCE_LENGTH} & names


def test_weights_are_shared_only_within_a_folder(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not lie beside model\.onnx"):
        write_standard(artifact / "fp16" / "model.onnx", tmp_path / "standard.onnx", CONTEXT)
