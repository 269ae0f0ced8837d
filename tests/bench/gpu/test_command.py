"""`python -m bench gpu` where there is no GPU."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from tests.runtime.cuda.accelerated import HAS_GPU


@pytest.mark.skipif(HAS_GPU, reason="there may be a GPU")
def test_without_a_gpu_it_ends_in_one_line() -> None:
    ended = CliRunner().invoke(app, ["gpu"])
    assert ended.exit_code == 1
    (line,) = ended.output.strip().splitlines()
    assert line.startswith("lmaas: no GPU to measure on: this ONNX Runtime has no CUDAExecutionProvider")
    assert "'lmaas[gpu]'" in line
