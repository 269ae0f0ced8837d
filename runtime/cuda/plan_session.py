"""A TensorRT plan with the part of onnxruntime.InferenceSession that `LmSession` uses.

So the scheduler, the cache and the choice of tokens are those of ONNX Runtime on a GPU. A run is one call in
the order of the stream; runs are not captured as CUDA graphs. Not run on a GPU yet: tests replace TensorRT
by a stand-in that computes a plan's graph on the CPU, at the addresses that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from runtime.contract import LmGraph
from runtime.cuda.captured import must_wait
from runtime.cuda.plan import DECODE, PREFILL, PlanError, library
from runtime.cuda.stream import Buffer, Stream

ALIGNMENT = 256  # bytes, of every address (setTensorAddress in NvInferRuntime.h)


class Bound(NamedTuple):
    shape: tuple[int, ...]
    address: int
    on_host: bool


class PlanTensor(NamedTuple):
    """As onnxruntime.NodeArg: an input or output of the plan."""

    name: str
    shape: tuple[int, ...]  # -1: any number
    dtype: np.dtype[Any]

    @property
    def type(self) -> str:
        name = {"float32": "float"}.get(self.dtype.name, self.dtype.name)
        return f"tensor({name})"


class PlanBinding:
    """As onnxruntime.IOBinding. What the plan does not have is left out."""

    def __init__(self, known: Mapping[str, PlanTensor], device: str) -> None:
        """`known` are the inputs of the plan, `device` that of its stream."""
        self.inputs: dict[str, Bound] = {}
        self.outputs: dict[str, Bound] = {}
        self._known = known
        self._device = device

    def bind_input(
        self, name: str, _device: str, _id: int, _element: Any, shape: tuple[int, ...], address: int
    ) -> None:
        if name in self._known:
            self.inputs[name] = Bound(shape, address, False)

    def bind_output(
        self, name: str, device: str, _id: int, _element: Any, shape: tuple[int, ...], address: int
    ) -> None:
        self.outputs[name] = Bound(shape, address, device != self._device)

    def clear_binding_outputs(self) -> None:
        self.outputs.clear()


class PlanSession:
    def __init__(self, plan: Path, stream: Stream) -> None:
        """Raises PlanError where TensorRT does not open the plan."""
        trt = library()
        self._stream = stream
        self.version = f"tensorrt {trt.__version__}"
        self._logger = trt.Logger(trt.Logger.ERROR)  # on stderr
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise PlanError(f"TensorRT {trt.__version__} cannot open the plan: the server's log says why")
        self._contexts = [self._context(profile) for profile in (DECODE, PREFILL)]
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        tensors = {name: self._tensor(trt, name) for name in names}
        given = {name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        self._inputs = {name: tensors[name] for name in names if name in given}
        self._outputs = {name: tensors[name] for name in names if name not in given}
        self._scratch: dict[str, Buffer] = {}  # of outputs that are not wanted on the device

    def get_inputs(self) -> list[PlanTensor]:
        return list(self._inputs.values())

    def get_outputs(self) -> list[PlanTensor]:
        return list(self._outputs.values())

    def io_binding(self) -> PlanBinding:
        return PlanBinding(self._inputs, self._stream.device)

    def run_with_iobinding(self, binding: PlanBinding, options: onnxruntime.RunOptions) -> None:
        """Joins the stream, and waits if it `must_wait`: outputs on the host need that. Raises PlanError."""
        tokens = binding.inputs[LmGraph.INPUT_IDS].shape[1]
        rows = binding.inputs[LmGraph.LOGIT_ROWS].shape[0]
        context = self._contexts[DECODE if tokens == 1 else PREFILL]
        for name, bound in binding.inputs.items():
            if not context.set_input_shape(name, bound.shape):
                raise PlanError(f"TensorRT refuses {name} of {bound.shape}")
            if bound.address % ALIGNMENT:  # of outputs, only the caches could be: they are inputs, too
                raise PlanError(f"{name} does not lie on a multiple of {ALIGNMENT} bytes")
            context.set_tensor_address(name, bound.address)
        addresses = {name: self._address(name, binding.outputs.get(name), rows) for name in self._outputs}
        for name, address in addresses.items():
            context.set_tensor_address(name, address)
        if not context.execute_async_v3(self._stream.handle):
            raise PlanError("TensorRT cannot run the plan: the server's log says why")
        for name, bound in binding.outputs.items():
            if bound.on_host:
                size = math.prod(bound.shape) * self._outputs[name].dtype.itemsize
                self._stream.pull(bound.address, addresses[name], size)
        if must_wait(options):
            self._stream.wait()

    def _address(self, name: str, bound: Bound | None, rows: int) -> int:
        """Where the plan writes an output: every one needs a place."""
        if bound is not None and not bound.on_host:
            return bound.address
        tensor = self._outputs[name]
        size = max(1, math.prod((rows, *tensor.shape[1:])) * tensor.dtype.itemsize)
        found = self._scratch.get(name)
        if found is None or found.size < size:
            found = self._scratch[name] = self._stream.allocate(size)
        return found.address

    def _context(self, profile: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None or not context.set_optimization_profile_async(profile, self._stream.handle):
            raise PlanError("TensorRT has no memory to run the plan: the server's log says more")
        return context

    def _tensor(self, trt: Any, name: str) -> PlanTensor:
        shape = tuple(self._engine.get_tensor_shape(name))
        return PlanTensor(name, shape, np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))))
