"""TensorRT-RTX builds plans of a language model without a GPU, and uses all that a graph says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from runtime.cuda import libraries, plan
from runtime.cuda.plan import PlanError, PlanLimits, build_plan
from runtime.cuda.plans import find_plan
from tests.cuda.conftest import CHUNK, CONTEXT, SLOTS
from tests.cuda.standin import StandIn
from tests.cuda.test_libraries import in_a_process

pytestmark = pytest.mark.cuda

LIMITS = PlanLimits(SLOTS, CHUNK, CONTEXT)
CAPABILITY = "SM89"
NAME = "from runtime.cuda.libraries import gpu_name; print(gpu_name())"
LAYERS = 2
SMALL = {"n_layer": LAYERS, "vocab_size": 4096}


@pytest.fixture(scope="module")
def graph(write_fp16: Callable[..., Path]) -> Path:
    return write_fp16(**SMALL, n_head=4)


def test_a_plan_is_built_for_prompts_and_steps(graph: Path, tmp_path: Path) -> None:
    report = build_plan(graph, tmp_path / "plan", LIMITS, CAPABILITY)
    assert report.layers["KV_CACHE_UPDATE"] == 2 * LAYERS
    assert report.layers["ATTENTION_INPUT"] == LAYERS
    assert report.layers["MATRIX_MULTIPLY"] == 4 * LAYERS + 1
    assert report.size == (tmp_path / "plan").stat().st_size > 0
    assert [file.name for file in tmp_path.iterdir()] == ["plan"]


def test_the_command_prints_its_report(
    graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ["--num-slots", "2", "--most-tokens", "8", "--context", str(CONTEXT)]
    assert plan.main([str(graph), str(tmp_path / "plan"), *limits, "--capability", CAPABILITY]) == 0
    assert json.loads(capsys.readouterr().out)["size"] > 0


def test_a_child_process_builds_a_plan_once(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU, TensorRT-RTX builds for all that it supports."""
    monkeypatch.setattr(libraries, "gpu_name", lambda: "a GPU")
    found = find_plan(tmp_path / "plans", graph, "sha256:1", LIMITS)
    assert found.stat().st_size > 1_000_000
    os.utime(found, (0, 0))
    assert find_plan(tmp_path / "plans", graph, "sha256:1", LIMITS) == found
    assert found.stat().st_mtime > 0  # it counts as used
    assert list((tmp_path / "plans").iterdir()) == [found]


def test_the_gpu_has_a_name(standin: StandIn) -> None:
    assert in_a_process(NAME, standin.folder) == ["Stand-in 0"]


def test_an_input_that_is_ignored_is_an_error(graph: Path, tmp_path: Path) -> None:
    """As TensorRT ignores the number of valid rows that ONNX's Attention takes."""
    model = onnx.load(graph, load_external_data=False)
    model.graph.input.append(helper.make_tensor_value_info("ignored", TensorProto.FLOAT, ["batch"]))
    changed = graph.with_name("changed.onnx")
    onnx.save(model, changed)
    with pytest.raises(PlanError, match="Unused Input: ignored"):
        build_plan(changed, tmp_path / "plan", LIMITS, CAPABILITY)
    assert not (tmp_path / "plan").exists()


def test_fewer_than_four_heads_have_no_fused_attention(
    write_fp16: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child process says in one line what TensorRT says."""
    monkeypatch.setattr(libraries, "gpu_name", lambda: "a GPU")
    with pytest.raises(PlanError, match=r"did not build it: TensorRT 1\..* by a dedicated kernel") as caught:
        find_plan(tmp_path, write_fp16(**SMALL, n_head=2), "sha256:1", LIMITS)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
