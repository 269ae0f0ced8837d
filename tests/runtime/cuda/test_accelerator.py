"""Providers and their options, and what is said where there is none of them."""

from __future__ import annotations

import sys
from pathlib import Path

import onnxruntime
import pytest

from kernels.session import CPU
from runtime.cuda.accelerator import CUDA, TENSORRT, Accelerator, AcceleratorError
from runtime.cuda.memory import copy_graph

HAS_GPU = CUDA in onnxruntime.get_available_providers()
needs_none = pytest.mark.skipif(HAS_GPU, reason="this ONNX Runtime has the provider")


@pytest.mark.parametrize("capture", [False, True])
def test_runs_are_captured_only_where_they_say_which(capture: bool) -> None:
    cuda, cpu = Accelerator().providers(capture)
    assert cuda == (CUDA, {"device_id": 0, "enable_cuda_graph": int(capture), "use_tf32": 0})
    assert cpu == CPU


def test_tensorrt_comes_first_and_keeps_what_it_compiles(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    accelerator = Accelerator(str(folder))
    first = accelerator.providers(False)[0]
    assert isinstance(first, tuple)
    assert first[0] == TENSORRT
    assert first[1]["trt_engine_cache_path"] == str(folder)
    assert folder.is_dir()
    assert not accelerator.captures


@needs_none
@pytest.mark.parametrize(("cache", "provider"), [("", CUDA), ("somewhere", TENSORRT)])
def test_what_is_lacking_is_one_line_with_its_remedy(cache: str, provider: str) -> None:
    with pytest.raises(AcceleratorError) as raised:
        Accelerator(cache).open(copy_graph(1, 1), onnxruntime.SessionOptions())
    line = str(raised.value)
    assert line.startswith(f"this ONNX Runtime has no {provider}: pip uninstall onnxruntime")
    assert "\n" not in line


def test_a_python_without_its_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "hexversion", 0x030A0EF0)
    with pytest.raises(AcceleratorError, match=r"needs Python 3\.11 or 3\.12"):
        Accelerator().check()


def test_a_session_that_fell_back_to_the_cpu_is_refused() -> None:
    """As ONNX Runtime makes it where CUDA's libraries cannot be loaded."""
    session = onnxruntime.InferenceSession(copy_graph(1, 1), providers=[CPU])
    with pytest.raises(AcceleratorError, match="could not start its CUDAExecutionProvider"):
        Accelerator().check_opened(session)
