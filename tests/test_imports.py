"""What a fresh process drags in: serving needs no torch, and the engine no HTTP."""

from __future__ import annotations

import subprocess
import sys

import pytest


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
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == []
