"""The checks of `python -m bench gpu`, run on two engines of the CPU: one goes the way of a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from bench.gpu.checks import ALLOWED, check_engine, parting
from runtime.contract import GRAPH_FILE, LmGraph, Variant
from runtime.cuda.accelerator import Accelerator
from runtime.cuda.sampling import append_best
from runtime.engine import Engine
from runtime.messages import ScoredToken, TokenLogprob
from tests.runtime.cuda.accelerated import HAS_GPU, accelerated_engine
from tests.runtime.cuda.cuda_kernels import without_cuda_kernel


@pytest.fixture(scope="module")
def engines(artifact: Path) -> Iterator[tuple[Engine, Engine]]:
    """(float16 on the way of a GPU, fp32 on the CPU)."""
    opened = (
        accelerated_engine(artifact, Variant.FP16, num_slots=6, prefill_chunk=8),
        accelerated_engine(artifact, Variant.FP32, num_slots=6),
    )
    yield opened
    for engine in opened:
        engine.close()


def test_the_checks_hold_where_only_the_gpu_is_missing(engines: tuple[Engine, Engine]) -> None:
    texts = ["a", "the cat ran", "the cat and the dog ran on and on and on", "rain all night"]
    checks = check_engine(*engines, texts)
    assert [check for check in checks if not check.held] == []
    assert len({check.name for check in checks}) == len(checks)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs a GPU and onnxruntime-gpu")
def test_the_checks_hold_on_a_gpu(artifact: Path, engines: tuple[Engine, Engine]) -> None:
    cuda = accelerated_engine(artifact, Variant.FP16, Accelerator(), num_slots=6, prefill_chunk=8)
    try:
        checks = check_engine(cuda, engines[1], ["a", "the cat ran", "the cat and the dog ran on and on"])
        assert [check for check in checks if not check.held] == []
    finally:
        cuda.close()


def test_the_graph_that_a_gpu_runs_has_kernels_there(artifact: Path) -> None:
    model = onnx.load(artifact / "fp16" / GRAPH_FILE, load_external_data=False)
    append_best(model, LmGraph.LOGITS)
    assert without_cuda_kernel(model) == set()


def test_answers_may_part_where_they_are_tied() -> None:
    tied = (ScoredToken(5, "", -1.0), ScoredToken(6, "", -1.01))
    expected = [TokenLogprob(4, "", -0.5), TokenLogprob(5, "", -1.0, tied), TokenLogprob(9, "", -0.1)]
    assert parting(expected, [4, 5, 9]) == (3, 0.0)
    place, gap = parting(expected, [4, 6, 1])
    assert place == 1
    assert gap == pytest.approx(0.01)
    assert parting(expected, [4, 7, 9])[1] > ALLOWED
