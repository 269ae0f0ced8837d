"""The order of the steps, and one that has no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.gpu.run import run
from bench.gpu.steps import ONLY_CHECKS, WORKS, Plan, all_steps
from tests.runtime.cuda.accelerated import HAS_GPU


def test_correctness_comes_before_speed() -> None:
    names = list(WORKS)
    for place, (name, work) in enumerate(WORKS.items()):
        assert set(work.needs) <= set(names[:place])
        if name not in (*ONLY_CHECKS, "ceilings", "CUDA graph of transformers"):
            assert "checks" in work.needs
    assert names[:4] == ["facts", "ceilings", "export", "checks"]
    assert set(ONLY_CHECKS) <= set(names)


@pytest.mark.skipif(HAS_GPU, reason="there may be a GPU")
def test_a_step_without_a_gpu_is_a_line_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.report.RESULTS", tmp_path)
    plan = Plan(str(tmp_path), [1], [32], 8, 1)
    assert [step.name for step in all_steps(plan, ONLY_CHECKS)] == list(ONLY_CHECKS)
    *_, last = run(plan, ("facts", "checks"), 60.0)
    failure, ended, needs = (tmp_path / "gpu.jsonl").read_text().splitlines()
    assert "AcceleratorError: this ONNX Runtime has no CUDAExecutionProvider" in failure
    assert '"ended": "failed"' in ended
    assert '"reason": "it needs the step export"' in needs
    assert last["step"] == "checks"
    assert "| facts | failed |" in (tmp_path / "gpu.md").read_text()
    assert "Traceback" in capfd.readouterr().err
