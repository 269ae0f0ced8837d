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
        (
            "api.app",
            ["torch", "transformers", "onnxruntime", "opentelemetry", "runtime.engine", "kubernetes"],
        ),
        ("runtime.engine", ["torch", "transformers", "starlette", "tritonclient", "api", "export"]),
        ("runtime.triton.lm", ["torch", "transformers", "starlette", "tritonclient", "api", "export"]),
        ("runtime.triton.heads", ["torch", "transformers", "starlette", "tritonclient", "api", "export"]),
        # Triton starts a process for each load that only declares the tensors.
        ("runtime.triton", ["onnxruntime", "onnx", "tokenizers", "runtime.engine"]),
        # Only a checkpoint needs torch.
        ("train.evaluation.run", ["torch", "transformers", "starlette", "api", "matplotlib"]),
        ("export.pipeline", ["torch", "transformers", "starlette", "api", "runtime.engine"]),
        ("lmaas", ["torch", "starlette", "onnx", "numpy", "sqlalchemy"]),
        ("client.http", ["httpx", "typer", "numpy", "runtime"]),
        ("perf.http.run", ["torch", "onnxruntime", "starlette", "api", "export", "runtime.engine"]),
        # A peer imports it in an environment that has no package of ours.
        ("bench.peers.protocol", ["numpy", "typer", "httpx", "perf", "runtime"]),
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


SHARED = tuple(
    f"runtime.{name}"
    for name in (
        "calibration",
        "commands",
        "config",
        "contract",
        "drain_rate",
        "fair_queue",
        "golden_rules",
        "grammar",
        "log_format",
        "manifest",
        "messages",
        "parameters",
        "receipts",
        "strict_json",
    )
)


@pytest.mark.parametrize("module", SHARED)
def test_what_all_rooms_share_needs_the_standard_library_only(module: str) -> None:
    script = (
        f"import sys; before = set(sys.modules); import {module}; print(*sorted(set(sys.modules) - before))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    loaded = set(ended.stdout.split())
    assert module in loaded
    rooms = {"kernels", "runtime"}
    assert {name.partition(".")[0] for name in loaded} <= rooms | sys.stdlib_module_names
    assert {name for name in loaded if name.partition(".")[0] in rooms} <= {*SHARED, *rooms, "runtime.errors"}


@pytest.mark.parametrize(
    "module", ["kernels.session", "runtime.session", "export.session", "bench.stack.in_process"]
)
def test_onnxruntime_keeps_nothing_in_the_home_folder(module: str, tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    environment.pop("XDG_CACHE_HOME", None)
    script = f"import sys, {module}; sys.exit('onnxruntime' not in sys.modules)"
    subprocess.run([sys.executable, "-c", script], timeout=60, env=environment, check=True)
    assert list(tmp_path.rglob("*onnxruntime*")) == []
