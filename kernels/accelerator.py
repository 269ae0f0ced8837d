"""ONNX Runtime on a GPU: its providers and their options.

Options and their meaning: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html and
TensorRT-ExecutionProvider.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"

Provider = str | tuple[str, dict[str, Any]]


class AcceleratorError(RuntimeError):
    """There is no GPU for ONNX Runtime; one line that says why and what helps."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """The first GPU of this process (choose another by CUDA_VISIBLE_DEVICES)."""

    tensorrt_cache: str = ""  # the folder of TensorRT's engines; empty: without TensorRT

    @property
    def memory(self) -> str:
        """Where its arrays lie, as `OrtValue` and `IOBinding` name it."""
        return "cuda"

    @property
    def captures(self) -> bool:
        """Whether runs can be captured: all nodes must be of one provider, and TensorRT takes but some."""
        return not self.tensorrt_cache

    @property
    def needed(self) -> list[str]:
        """Providers without which nothing is served."""
        return [TENSORRT, CUDA] if self.tensorrt_cache else [CUDA]

    def check(self) -> None:
        """Load the libraries; raise AcceleratorError where this ONNX Runtime was built without a provider."""
        lacking = [name for name in self.needed if name not in onnxruntime.get_available_providers()]
        if lacking:
            raise AcceleratorError(
                f"this ONNX Runtime has no {lacking[0]}: pip uninstall onnxruntime, then "
                "pip install 'lmaas[gpu]' (the two packages cannot stand side by side)"
            )
        onnxruntime.preload_dlls()  # CUDA and cuDNN as pip installs them

    def open(
        self, model: bytes, options: onnxruntime.SessionOptions, *, capture: bool = False
    ) -> onnxruntime.InferenceSession:
        """A session over a serialized graph; with `capture`, runs may name a CUDA graph to record or replay.

        Every run of such a session must say which by `gpu_graph_id`: without one it is graph 0.
        """
        self.check()
        providers = self.providers(capture and self.captures)
        # Without the fallback: it would go on with the CPU, hundreds of times slower, after a line on stdout.
        session = onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
        self.check_opened(session)
        return session

    def providers(self, capture: bool) -> list[Provider]:
        """Most wanted first; float32 products are float32, not TF32, as on every other device."""
        cuda = {"device_id": 0, "enable_cuda_graph": int(capture), "use_tf32": 0}
        found: list[Provider] = [(CUDA, cuda), CPU]
        if self.tensorrt_cache:
            Path(self.tensorrt_cache).mkdir(parents=True, exist_ok=True)
            tensorrt = {
                "device_id": 0,
                "trt_fp16_enable": True,
                "trt_engine_cache_enable": True,
                "trt_engine_cache_path": self.tensorrt_cache,
                "trt_timing_cache_enable": True,
                "trt_timing_cache_path": self.tensorrt_cache,
            }
            found.insert(0, (TENSORRT, tensorrt))
        return found

    def check_opened(self, session: onnxruntime.InferenceSession) -> None:
        """ONNX Runtime goes on without a provider whose libraries it cannot load, and tells only its log."""
        if lacking := [name for name in self.needed if name not in session.get_providers()]:
            raise AcceleratorError(
                f"ONNX Runtime could not start its {lacking[0]}, its log says why: a GPU with its driver is "
                "needed, and CUDA and cuDNN as pip install 'lmaas[gpu]' brings them (an image: TensorRT)"
            )
