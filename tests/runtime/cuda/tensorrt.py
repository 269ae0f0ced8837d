"""A stand-in for TensorRT's module: a plan is the path of a graph, which ONNX Runtime computes on the CPU.

It reads and writes the addresses that it is given, and refuses shapes beyond the profiles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from kernels.session import CPU, WEIGHTS_FOLDER
from runtime.contract import LmGraph
from runtime.cuda.plan import DECODE
from runtime.cuda.sampling import append_best
from runtime.cuda.standard import standard_model
from tests.export.checkpoints import CONTEXT

__version__ = "of the CPU"
SLOTS, CHUNK = 5, 64


class IAttention:
    key_value_lengths: Any = None


class Logger:
    ERROR = 1

    def __init__(self, _severity: int) -> None: ...


class TensorIOMode:
    INPUT, OUTPUT = 1, 2


def nptype(dtype: np.dtype[Any]) -> Any:
    return dtype.type


class Runtime:
    def __init__(self, _logger: Logger) -> None: ...

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        graph = Path(plan.decode())
        return Engine(graph) if graph.is_file() else None


class Engine:
    def __init__(self, graph: Path) -> None:
        model = standard_model(graph, CONTEXT)
        append_best(model, LmGraph.LOGITS)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry(WEIGHTS_FOLDER, str(graph.parent))
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])
        self._values = {value.name: value for value in (*model.graph.input, *model.graph.output)}
        self._inputs = {value.name for value in model.graph.input}
        self.names: list[str] = list(self._values)
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, number: int) -> str:
        return self.names[number]

    def get_tensor_mode(self, name: str) -> int:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(side.dim_value or -1 for side in self._type(name).shape.dim)

    def get_tensor_dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(helper.tensor_dtype_to_np_dtype(self._type(name).elem_type))

    def create_execution_context(self) -> Context:
        return Context(self)

    def _type(self, name: str) -> onnx.TypeProto.Tensor:
        return self._values[name].type.tensor_type


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._most = (0, 0)

    def set_optimization_profile_async(self, profile: int, _stream: int) -> bool:
        self._most = (SLOTS, 1) if profile == DECODE else (1, CHUNK)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        if name == LmGraph.LOGIT_ROWS:
            return True
        sides = shape[:2] if name in (LmGraph.INPUT_IDS, LmGraph.POSITION_IDS) else shape[:1]
        return all(1 <= side <= most for side, most in zip(sides, self._most, strict=False))

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def execute_async_v3(self, _stream: int) -> bool:
        binding = self._engine.session.io_binding()
        for name in self._engine.names:
            dtype = self._engine.get_tensor_dtype(name).type
            if name in self._shapes:
                binding.bind_input(name, "cpu", 0, dtype, self._shapes[name], self._addresses[name])
            else:
                binding.bind_output(name, "cpu", 0, dtype, self._shape(name), self._addresses[name])
        self._engine.session.run_with_iobinding(binding)
        return True

    def _shape(self, name: str) -> tuple[int, ...]:
        if name.startswith("present_"):
            return self._shapes[name.replace("present", "past")]
        return (*self._shapes[LmGraph.LOGIT_ROWS], *self._engine.get_tensor_shape(name)[1:])
