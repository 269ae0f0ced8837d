"""Memory of a device, by ONNX Runtime's Python alone: allotted as OrtValues, bound by address.

An OrtValue is copied whole, from or to the host, in one call that returns when it is done. So what a run
reads lies in one block, and what it answers in another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import DTypeLike, NDArray
from onnx import helper

from kernels import copying
from kernels.accelerator import Accelerator
from runtime.kv_memory import CacheLayout, KvMemory

_ALIGNMENT = 256  # bytes, as cudaMalloc aligns


class Block:
    """Arrays side by side in one piece of memory; `arrays` are the host's view of them."""

    device = "cpu"

    def __init__(self, arrays: Mapping[str, tuple[int, DTypeLike]]) -> None:
        """`arrays`: how many values of which type."""
        self._offsets: dict[str, int] = {}
        size = 0
        for name, (count, dtype) in arrays.items():
            self._offsets[name] = size
            size += -(-count * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
        self._host = np.zeros(size, np.uint8)
        self.arrays: dict[str, NDArray[Any]] = {
            name: self._host[self._offsets[name] :][: count * np.dtype(dtype).itemsize].view(dtype)
            for name, (count, dtype) in arrays.items()
        }

    def address(self, name: str) -> int:
        """Where a run finds the array."""
        return self._start + self._offsets[name]

    def push(self) -> None:
        """What the host wrote, to where runs read it."""

    def pull(self) -> None:
        """What runs wrote, to where the host reads it."""

    @property
    def _start(self) -> int:
        return int(self._host.ctypes.data)


class DeviceBlock(Block):
    def __init__(self, arrays: Mapping[str, tuple[int, DTypeLike]], device: str) -> None:
        super().__init__(arrays)
        self.device = device
        self._value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(self._host.shape, np.uint8, device)

    def push(self) -> None:
        self._value.update_inplace(self._host)

    def pull(self) -> None:
        np.copyto(self._host, self._value.numpy())

    @property
    def _start(self) -> int:
        return int(self._value.data_ptr())


class DeviceKvMemory(KvMemory):
    """Allotted once and for all: nothing is given back, and `max_kv_tokens` bounds admission alone."""

    def __init__(
        self, layout: CacheLayout, num_slots: int, context_length: int, accelerator: Accelerator
    ) -> None:
        super().__init__(layout, num_slots, context_length)
        self.device = accelerator.memory
        # Rows that nobody wrote are read with a weight of zero, and zero times NaN would be NaN.
        empty = np.zeros(self.shape, layout.dtype)
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy(empty, self.device)
        element = helper.np_dtype_to_tensor_dtype(layout.dtype)
        self._copier = accelerator.open(
            copying.copying_graph(self.shape[0], element), onnxruntime.SessionOptions()
        )

    @property
    def start(self) -> int:
        return int(self._value.data_ptr())

    @property
    def buffers(self) -> NDArray[Any]:
        """A copy."""
        return np.asarray(self._value.numpy())

    def copy_rows(self, source: int, target: int, count: int) -> None:
        """The whole slot, which lies in one piece for each layer's keys and values."""
        if not count:
            return
        binding = self._copier.io_binding()
        element, length = self.layout.dtype.type, [self.slot_bytes // self.layout.dtype.itemsize]
        for half in range(self.shape[0]):
            from_address, to_address = self.address(half, source), self.address(half, target)
            binding.bind_input(copying.source(half), self.device, 0, element, length, from_address)
            binding.bind_output(copying.target(half), self.device, 0, element, length, to_address)
        self._copier.run_with_iobinding(binding)

    def give_back(self, slot: int, kept: int, stop: int) -> None:
        """It stays."""
