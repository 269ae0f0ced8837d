"""Providers and their options, and what is said where there is none of them."""

from __future__ import annotations

import sys

import onnxruntime
import pytest

from bench.gpu.stand import Stand
from kernels.session import CPU
from runtime.cuda.accelerator import CUDA, Accelerator, AcceleratorError
from runtime.cuda.sampling import draw_graph

HAS_GPU = CUDA in onnxruntime.get_available_providers()
GRAPH = draw_graph(3).SerializeToString()
needs_none = pytest.mark.skipif(HAS_GPU, reason="this ONNX Runtime has the provider")


@pytest.mark.parametrize("capture", [False, True])
def test_runs_are_captured_only_where_they_say_which(capture: bool) -> None:
    accelerator = Stand()
    cuda, cpu = Accelerator.providers(accelerator, capture)
    stream = {"user_compute_stream": accelerator.stream.handle} if capture else {}
    options = {"device_id": 0, "enable_cuda_graph": int(capture), "use_tf32": 0, "sdpa_kernel": 3, **stream}
    assert cuda == (CUDA, options)
    assert cpu == CPU


@needs_none
def test_what_is_lacking_is_one_line_with_its_remedy() -> None:
    with pytest.raises(AcceleratorError) as raised:
        Accelerator().open(GRAPH, onnxruntime.SessionOptions())
    line = str(raised.value)
    assert line.startswith(f"this ONNX Runtime has no {CUDA}: pip uninstall onnxruntime")
    assert "\n" not in line


def test_a_python_without_its_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "hexversion", 0x030A0EF0)
    with pytest.raises(AcceleratorError, match=r"needs Python 3\.11 or 3\.12"):
        Accelerator().check()


def test_a_session_that_fell_back_to_the_cpu_is_refused() -> None:
    """As ONNX Runtime makes it where CUDA's libraries cannot be loaded."""
    session = onnxruntime.InferenceSession(GRAPH, providers=[CPU])
    with pytest.raises(AcceleratorError, match="could not start its CUDAExecutionProvider"):
        Accelerator().check_opened(session)
