"""A server with a folder for TensorRT's plans: a plan computes, or ONNX Runtime and the log says why."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

import runtime.load
from bench.gpu.stand import Stand
from export.pipeline import export_checkpoint
from runtime.config import EngineConfig
from runtime.contract import GRAPH_FILE, Device, Variant
from runtime.cuda import libraries
from runtime.cuda.plan import PlanError, PlanLimits
from runtime.cuda.plan_session import PlanSession
from runtime.cuda.plans import ATTEMPTS, KEPT, _remove_oldest, attempt, find_plan
from runtime.engine import Engine
from runtime.errors import ModelError
from runtime.load import load_engine
from tests.runtime.cuda import tensorrt
from tests.runtime.engines import ask, token_ids
from tests.runtime.invariants import Invariants

# A process that ends while it loads a plan, with a TensorRT that is only there.
TENSORRT = "class IAttention: key_value_lengths = None\n__version__ = 'that crashes'\n"
DIES = """
import os, sys
from pathlib import Path
from runtime.cuda.plans import attempt
with attempt(Path(sys.argv[1])):
    os._exit(11)
"""
LIMITS = PlanLimits(tensorrt.SLOTS, tensorrt.CHUNK, 96)


@pytest.fixture(scope="module")
def artifact(lm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fp16") / "artifact"
    export_checkpoint(lm_checkpoint, folder, name="tiny-lm", variants=[Variant.FP32, Variant.FP16])
    return folder


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is the CPU, and a TensorRT for it."""
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
    monkeypatch.setattr(runtime.load, "accelerator_of", lambda config: Stand())
    monkeypatch.setattr(libraries, "gpu_name", lambda: "the CPU")
    monkeypatch.setattr(tensorrt, "CHUNK", 96)  # on a GPU, a chunk may be the whole context


def load(artifact: Path, plans: Path) -> Engine:
    config = EngineConfig(
        Variant.FP16,
        device=Device.CUDA,
        plans=str(plans),
        num_slots=tensorrt.SLOTS,
        prefill_chunk=tensorrt.CHUNK,
    )
    return load_engine(artifact, config=config)


def test_a_plan_computes(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its golden prompts were answered, or it would not have loaded with it."""
    path = tmp_path / "plan"
    path.write_text(str(artifact / Variant.FP16.value / GRAPH_FILE))
    monkeypatch.setattr(runtime.load, "find_plan", lambda *arguments: path)
    engine = load(artifact, tmp_path)
    receipt = ask(engine, "the cat", receipt=True)["receipt"]
    assert (receipt["kernels"], receipt["exact_on"]) == ("tensorrt of the CPU", "not-promised")
    assert engine.fallback == ""
    assert list(tmp_path.iterdir()) == [path]
    engine.close()


def test_other_answers_than_the_golden_ones_end_in_onnx_runtime(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = onnx.load(artifact / Variant.FP16.value / GRAPH_FILE)
    scale = next(item for item in model.graph.initializer if item.name == "ln_f.weight")
    scale.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(scale), scale.name))
    onnx.save(model, tmp_path / GRAPH_FILE)
    path = tmp_path / "plan"
    path.write_text(str(tmp_path / GRAPH_FILE))
    monkeypatch.setattr(runtime.load, "find_plan", lambda *arguments: path)
    with caplog.at_level(logging.WARNING):
        engine = load(artifact, tmp_path)
    assert "ONNX Runtime computes, not TensorRT: tiny-lm: fp16: golden prompt" in caplog.text
    assert engine.fallback
    assert engine.fallback.startswith("tiny-lm: fp16: golden prompt")
    assert ask(engine, "the cat", receipt=True)["receipt"]["kernels"].startswith("onnxruntime 1.")
    engine.close()


def test_a_plan_that_is_refused_gives_its_memory_back_first(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invariants: Invariants
) -> None:
    collect, check_golden, left = gc.collect, runtime.load._check_golden, list[object]()

    def forget_and_collect() -> None:
        invariants.check()  # this list of the tests forgets the engine that was closed
        collect()
        left.append([one for one in gc.get_objects() if isinstance(one, PlanSession)])

    def refuse(_engine: Engine) -> None:
        monkeypatch.setattr(runtime.load, "_check_golden", check_golden)
        monkeypatch.setattr(gc, "collect", forget_and_collect)
        raise ModelError("other answers")

    path = tmp_path / "plan"
    path.write_text(str(artifact / Variant.FP16.value / GRAPH_FILE))
    monkeypatch.setattr(runtime.load, "find_plan", lambda *arguments: path)
    monkeypatch.setattr(runtime.load, "_check_golden", refuse)
    load(artifact, tmp_path).close()
    assert left == [[]]


def test_what_is_not_built_ends_in_onnx_runtime(
    artifact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The child process has no TensorRT."""
    with caplog.at_level(logging.WARNING):
        engine = load(artifact, tmp_path / "plans")
    assert "TensorRT did not build it: TensorRT is not installed" in caplog.text
    assert len(token_ids(engine, "the cat", temperature=0, max_tokens=3, ignore_eos=True)) == 3
    assert list((tmp_path / "plans").iterdir()) == []
    engine.close()


def test_a_plan_that_ends_its_process_is_loaded_twice_and_no_more(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / f"{1:064x}.plan"
    plan.write_text(str(artifact / Variant.FP16.value / GRAPH_FILE))
    (tmp_path / "tensorrt.py").write_text(TENSORRT)
    command = [sys.executable, "-c", DIES, str(plan)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    dying = [subprocess.Popen(command, env=environment) for _ in range(ATTEMPTS)]
    assert [process.wait() for process in dying] == [11] * ATTEMPTS
    monkeypatch.setattr(runtime.load, "find_plan", lambda *arguments: plan)
    engine = load(artifact, tmp_path)
    engine.close()
    assert engine.fallback
    assert engine.fallback.startswith("it ended 2 processes (TensorRT that crashes, process ")
    assert engine.fallback.endswith(f"): delete {plan.stem}.*.attempt to try it again")
    for file in tmp_path.glob(f"{plan.stem}.*.attempt"):
        file.unlink()
    with attempt(plan), attempt(plan), attempt(plan):  # of processes that live
        pass


def test_attempts_are_forgotten_with_their_plan(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.cuda.plans._build", lambda graph, plan, limits: plan.touch())
    plan = find_plan(tmp_path, artifact, "sha256:1", LIMITS)
    ended = plan.with_suffix(".0.attempt")
    ended.touch()
    assert find_plan(tmp_path, artifact, "sha256:1", LIMITS) == plan
    assert ended.exists()
    plan.unlink()
    assert find_plan(tmp_path, artifact, "sha256:1", LIMITS) == plan
    assert not ended.exists()


def test_a_plan_is_kept_for_its_graph_limits_and_gpu(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = artifact / Variant.FP16.value / GRAPH_FILE
    built: list[Path] = []

    def build(_graph: Path, plan: Path, _limits: PlanLimits) -> None:
        built.append(plan)
        plan.touch()

    monkeypatch.setattr("runtime.cuda.plans._build", build)
    first = find_plan(tmp_path, graph, "sha256:1", LIMITS)
    assert find_plan(tmp_path, graph, "sha256:1", LIMITS) == first
    others = [
        find_plan(tmp_path, graph, "sha256:2", LIMITS),
        find_plan(tmp_path, graph, "sha256:1", PlanLimits(1, 1, 96)),
    ]
    monkeypatch.setattr(libraries, "gpu_name", lambda: "another GPU")
    others.append(find_plan(tmp_path, graph, "sha256:1", LIMITS))
    assert built == [first, *others]
    assert len(set(built)) == 4


def test_a_folder_that_cannot_be_written_is_an_error(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlanError, match="Not a directory"):
        find_plan(tmp_path / "file" / "plans", artifact, "sha256:1", LIMITS)


def test_the_plans_that_were_used_last_are_kept(tmp_path: Path) -> None:
    plans = [tmp_path / f"{number:064x}.plan" for number in range(KEPT + 2)]
    for number, plan in enumerate(plans):
        plan.touch()
        os.utime(plan, (number, number))
    plans[0].with_suffix(".0.attempt").touch()
    other = tmp_path / "notes.plan"
    other.touch()
    os.utime(other, (0, 0))
    _remove_oldest(tmp_path)
    assert set(tmp_path.iterdir()) == {other, *plans[2:]}
