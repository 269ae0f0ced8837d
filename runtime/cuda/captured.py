"""Runs of a session as CUDA graphs: each is recorded at its first call, and replayed from then on.

A captured run reads and writes fixed addresses and nothing else. ONNX Runtime runs a new `gpu_graph_id` more
than once before it replays: a run must write the same values each time. A graph belongs to the thread that
captured it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import onnxruntime

from runtime.contract import LmGraph
from runtime.cuda.memory import DeviceArrays, DeviceLogits
from runtime.cuda.sampling import BEST_OUTPUTS, DRAW_INPUTS, DRAW_OUTPUTS, LOGITS, PEAK
from runtime.cuda.stream import Stream

BindCache = Callable[[Any, int, int], None]  # a binding, the first slot, how many
Key = TypeVar("Key")


GRAPH_ID = "gpu_graph_id"


def run_options(graph_id: int) -> onnxruntime.RunOptions:
    """Options of a run that records or replays the CUDA graph `graph_id`; -1: it does neither, and waits."""
    options = onnxruntime.RunOptions()
    # onnxruntime's Python API looks for this entry at every run; without it, an exception costs 60 us.
    options.add_run_config_entry(GRAPH_ID, str(graph_id))
    if graph_id != -1:
        # The host waits once, for the outputs and the copies behind them.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def must_wait(options: onnxruntime.RunOptions) -> bool:
    """Whether a run with these options returns when it is done."""
    waits: bool = options.get_run_config_entry(GRAPH_ID) == "-1"
    return waits


class CapturedRuns(ABC, Generic[Key]):
    """Runs join the stream: `run` returns before the device is done."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._found: dict[Key, tuple[Any, onnxruntime.RunOptions]] = {}

    @property
    def keys(self) -> set[Key]:
        """Of the runs that were captured."""
        return set(self._found)

    def run(self, key: Key) -> None:
        found = self._found.get(key)
        if found is None:
            binding = self._session.io_binding()
            self._bind(binding, key)
            found = self._found[key] = binding, run_options(1 + len(self._found))
        self._session.run_with_iobinding(*found)

    @abstractmethod
    def _bind(self, binding: Any, key: Key) -> None:
        """Bind all inputs and outputs."""


class Shape(NamedTuple):
    """What is fixed in a run of the model. Each row has `length` tokens, and one row of logits."""

    slot: int  # the first
    slots: int
    length: int
    total: int  # total_sequence_length, which ONNX Runtime reads on the host


class ModelRuns(CapturedRuns[Shape]):
    """Runs of the model over one cache, and the buffers that they share."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        stream: Stream,
        inputs: DeviceArrays,
        logits: DeviceLogits,
        bind_cache: BindCache,
    ) -> None:
        super().__init__(session)
        self.stream = stream
        self.inputs = inputs
        self.logits = logits
        chosen = {name: (logits.rows, dtype) for name, dtype in (BEST_OUTPUTS | DRAW_OUTPUTS).items()}
        self.outputs = DeviceArrays(chosen, stream)
        self._bind_cache = bind_cache
        self._totals: dict[int, np.ndarray[Any, np.dtype[np.int32]]] = {}

    def _bind(self, binding: Any, key: Shape) -> None:
        shapes = {
            LmGraph.INPUT_IDS: (key.slots, key.length),
            LmGraph.POSITION_IDS: (key.slots, key.length),
            LmGraph.SEQLENS_K: (key.slots,),
            LmGraph.LOGIT_ROWS: (key.slots,),
        }
        for name, shape in shapes.items():
            bind_array(binding.bind_input, name, self.inputs, shape)
        total = self._totals.setdefault(key.total, np.array(key.total, np.int32))
        binding.bind_input(LmGraph.TOTAL_SEQUENCE_LENGTH, "cpu", 0, np.int32, (), total.ctypes.data)
        self._bind_cache(binding, key.slot, key.slots)
        for name in BEST_OUTPUTS:
            bind_array(binding.bind_output, name, self.outputs, (key.slots,))
        self.logits.bind(binding.bind_output, LOGITS, key.slots)


class DrawRuns(CapturedRuns[int]):
    """Draws from what a run of the model left, by the number of rows; of `sampling.draw_graph`."""

    def __init__(self, session: onnxruntime.InferenceSession, model: ModelRuns) -> None:
        super().__init__(session)
        self._model = model

    def _bind(self, binding: Any, key: int) -> None:
        self._model.logits.bind(binding.bind_input, LOGITS, key)
        bind_array(binding.bind_input, PEAK, self._model.outputs, (key,))
        for name in DRAW_INPUTS:
            bind_array(binding.bind_input, name, self._model.inputs, (key, 1))
        for name in DRAW_OUTPUTS:
            bind_array(binding.bind_output, name, self._model.outputs, (key,))


def bind_array(bind: Callable[..., None], name: str, arrays: DeviceArrays, shape: tuple[int, ...]) -> None:
    """Bind the first values of an array, as many as `shape` holds; `bind` is a method of a binding."""
    bind(name, arrays.device, 0, arrays.arrays[name].dtype.type, shape, arrays.address(name))
