"""`python -m bench gpu` where there is no GPU, and where only the engine is installed."""

from __future__ import annotations

import subprocess
import sys

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


@pytest.mark.skipif(HAS_GPU, reason="there may be a GPU")
def test_it_needs_nothing_of_the_facade() -> None:
    """A machine with a GPU has the engine's packages; httptools and httpx, say, are the façade's."""
    absent = ("httptools", "httpx", "matplotlib", "sqlalchemy", "starlette", "tritonclient", "uvicorn")
    script = (
        f"sys.modules.update(dict.fromkeys({absent})); runpy.run_module('bench.gpu', run_name='__main__')"
    )
    command = [sys.executable, "-c", f"import runpy, sys; sys.argv[1:] = []; {script}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith("lmaas: no GPU to measure on: ")
