"""ONNX Runtime on a GPU: its providers and their options.

Options and their meaning: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html and
TensorRT-ExecutionProvider.html.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from kernels.session import CPU, WEIGHTS_FOLDER
from runtime.config import EngineSettings
from runtime.contract import Device
from runtime.cuda import libraries
from runtime.cuda.sampling import append_sampling

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"

Provider = str | tuple[str, dict[str, Any]]


class AcceleratorError(RuntimeError):
    """ONNX Runtime cannot use a GPU; one line with the reason and what to do."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """The first GPU of this process (choose another by CUDA_VISIBLE_DEVICES)."""

    tensorrt_cache: str = ""  # the folder of TensorRT's engines; empty: without TensorRT

    @property
    def memory(self) -> str:
        """The name of its memory in `OrtValue` and `IOBinding`."""
        return "cuda"

    @property
    def captures(self) -> bool:
        """Whether runs can be captured: one provider must run all nodes, and TensorRT runs only some."""
        return not self.tensorrt_cache

    @property
    def needed(self) -> list[str]:
        """Providers without which nothing is served."""
        return [TENSORRT, CUDA] if self.tensorrt_cache else [CUDA]

    @property
    def num_gpus(self) -> int:
        """GPUs that this process may use; call `check` before."""
        return libraries.num_gpus()

    def check(self) -> None:
        """Load the libraries; raise AcceleratorError where something is missing, the GPU included."""
        if sys.hexversion < 0x030B0000:
            # That for 3.10 ends at 1.23, where Shape and Reshape of these graphs have no kernel for CUDA.
            raise AcceleratorError("ONNX Runtime for a GPU needs Python 3.11 or 3.12: install LMaaS with one")
        lacking = [name for name in self.needed if name not in onnxruntime.get_available_providers()]
        if lacking:
            raise AcceleratorError(
                f"this ONNX Runtime has no {lacking[0]}: pip uninstall onnxruntime, then "
                f"{libraries.INSTALL} (the two packages cannot stand side by side)"
            )
        if found := libraries.problem():
            raise AcceleratorError(found)

    def open(
        self, model: bytes, options: onnxruntime.SessionOptions, *, capture: bool = False
    ) -> onnxruntime.InferenceSession:
        """A session over a serialized graph; with `capture`, runs may name a CUDA graph to record or replay.

        Every run of such a session must name its graph by `gpu_graph_id`: without one it is graph 0.
        """
        self.check()
        providers = self.providers(capture and self.captures)
        # No fallback: it would run on the CPU, hundreds of times slower, and only print a line on stdout.
        session = onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
        self.check_opened(session)
        return session

    def open_graph(
        self, graph: Path, options: onnxruntime.SessionOptions, logits: str = ""
    ) -> onnxruntime.InferenceSession:
        """A session over the file `graph`; raises AcceleratorError and what ONNX Runtime raises.

        With the name of an output `logits`, the graph chooses tokens from it (runtime/cuda/sampling.py), and
        runs can be captured.
        """
        model = onnx.load(graph, load_external_data=False)
        if logits:
            append_sampling(model, logits)
        options.add_session_config_entry(WEIGHTS_FOLDER, str(graph.parent))
        return self.open(model.SerializeToString(), options, capture=bool(logits))

    def providers(self, capture: bool) -> list[Provider]:
        """In order of preference; float32 products are float32, not TF32, as on every other device."""
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
        """ONNX Runtime continues without a provider whose libraries it cannot load, and only logs it."""
        if lacking := [name for name in self.needed if name not in session.get_providers()]:
            raise AcceleratorError(
                f"ONNX Runtime could not start its {lacking[0]}, its log says why: CUDA and cuDNN are needed "
                f"as {libraries.INSTALL} brings them (an image: TensorRT)"
            )


def accelerator_of(config: EngineSettings) -> Accelerator | None:
    """None: the model runs on the CPU."""
    return Accelerator(config.tensorrt_cache) if config.device is Device.CUDA else None
