"""ONNX Runtime on a GPU: its provider and the options.

Options and their meaning: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from kernels.session import CPU, WEIGHTS_FOLDER
from runtime.config import EngineSettings
from runtime.contract import Device
from runtime.cuda import libraries
from runtime.cuda.sampling import append_best
from runtime.cuda.stream import CudaStream, Stream

CUDA = "CUDAExecutionProvider"

# Bits of onnxruntime's AttentionBackend (attention_kernel_options.h): Flash and memory-efficient attention.
# cuDNN would make a plan for each new length of a prompt, which takes 50 ms and more.
ATTENTION = 1 | 2
# Weights get the memory that they need. ONNX Runtime's arena doubles, and would take twice as much for them.
EXACT_WEIGHTS = "session.use_device_allocator_for_initializers"

Provider = str | tuple[str, dict[str, Any]]


class AcceleratorError(RuntimeError):
    """ONNX Runtime cannot use a GPU; one line with the reason and what to do."""


@dataclass(frozen=True)
class Accelerator:
    """The first GPU of this process (choose another by CUDA_VISIBLE_DEVICES)."""

    @cached_property
    def stream(self) -> Stream:
        """Its memory, and the stream on which captured sessions run."""
        self.check()
        return CudaStream()

    @property
    def num_gpus(self) -> int:
        """GPUs that this process may use; call `check` before."""
        return libraries.num_gpus()

    def check(self) -> None:
        """Load the libraries; raise AcceleratorError where something is missing, the GPU included."""
        if sys.hexversion < 0x030B0000:
            # That for 3.10 ends at 1.23, where Shape and Reshape of these graphs have no kernel for CUDA.
            raise AcceleratorError("ONNX Runtime for a GPU needs Python 3.11 or 3.12: install LMaaS with one")
        if CUDA not in onnxruntime.get_available_providers():
            raise AcceleratorError(
                f"this ONNX Runtime has no {CUDA}: pip uninstall onnxruntime, then "
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
        options.add_session_config_entry(EXACT_WEIGHTS, "1")
        providers = self.providers(capture)
        # No fallback: it would run on the CPU, hundreds of times slower, and only print a line on stdout.
        session = onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
        self.check_opened(session)
        return session

    def open_graph(
        self, graph: Path, options: onnxruntime.SessionOptions, logits: str = ""
    ) -> onnxruntime.InferenceSession:
        """A session over the file `graph`; raises AcceleratorError and what ONNX Runtime raises.

        With the name of an output `logits`, the graph finds the best token of it (runtime/cuda/sampling.py),
        and runs can be captured.
        """
        model = onnx.load(graph, load_external_data=False)
        if logits:
            append_best(model, logits)
        options.add_session_config_entry(WEIGHTS_FOLDER, str(graph.parent))
        return self.open(model.SerializeToString(), options, capture=bool(logits))

    def providers(self, capture: bool) -> list[Provider]:
        """In order of preference; float32 products are float32, not TF32, as on every other device."""
        cuda = {"device_id": 0, "enable_cuda_graph": int(capture), "use_tf32": 0, "sdpa_kernel": ATTENTION}
        if capture:
            cuda["user_compute_stream"] = self.stream.handle
        return [(CUDA, cuda), CPU]

    def check_opened(self, session: onnxruntime.InferenceSession) -> None:
        """ONNX Runtime continues without a provider whose libraries it cannot load, and only logs it."""
        if CUDA not in session.get_providers():
            raise AcceleratorError(
                f"ONNX Runtime could not start its {CUDA}, its log says why: CUDA and cuDNN are needed as "
                f"{libraries.INSTALL} brings them"
            )


def accelerator_of(config: EngineSettings) -> Accelerator | None:
    """None: the model runs on the CPU."""
    return Accelerator() if config.device is Device.CUDA else None
