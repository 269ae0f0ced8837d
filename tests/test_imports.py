"""What a fresh process drags in: serving needs no torch, and the engine no HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("api.app", ["torch", "transformers", "onnxruntime", "runtime.engine"]),
        ("runtime.engine", ["torch", "transformers", "starlette", "tritonclient", "api", "export"]),
        ("runtime.triton", ["torch", "transformers", "starlette", "tritonclient", "api", "export"]),
        ("export.pipeline", ["torch", "transformers", "starlette", "api", "runtime.engine"]),
        ("runtime.contract", ["numpy", "onnx", "onnxruntime", "tokenizers"]),
        ("lmaas", ["torch", "starlette", "onnx", "numpy", "sqlalchemy"]),
    ],
)
def test_a_room_drags_in_only_what_it_needs(module: str, forbidden: list[str]) -> None:
    script = f"import sys, {module}; print(*[name for name in {forbidden!r} if name in sys.modules])"
    # Triton puts its own Python API on the path of the backend; nvidia-pytriton carries it.
    api = Path(sysconfig.get_path("platlib")) / "pytriton" / "tritonserver" / "backends" / "python"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(api)])}
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == []
