"""Memory of a device, through ONNX Runtime's Python API alone: allocated as OrtValues, bound by address.

An OrtValue is copied whole, from or to the host, in one call that returns when the copy is done. So all
inputs of a run lie in one piece of memory, and all its outputs in another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import DTypeLike, NDArray
from onnx import helper

from runtime.cuda.accelerator import Accelerator
from runtime.memory import CacheLayout, HostArrays, KvMemory

COPY_OPSET = 13  # the CUDA provider has an Identity of this version, but none of opset 21


class DeviceArrays(HostArrays):
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
    """Allocated once: nothing is given back, and `max_kv_tokens` only limits which sequences may start."""

    def __init__(
        self, layout: CacheLayout, num_slots: int, context_length: int, accelerator: Accelerator
    ) -> None:
        super().__init__(layout, num_slots, context_length)
        self.device = accelerator.memory
        # Rows that were never written are read with a weight of zero, and zero times NaN would be NaN.
        empty = np.zeros(self.size // layout.dtype.itemsize, layout.dtype)
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy(empty, self.device)
        element = helper.np_dtype_to_tensor_dtype(layout.dtype)
        self._copier = accelerator.open(copy_graph(len(self.shapes), element), onnxruntime.SessionOptions())

    @property
    def start(self) -> int:
        return int(self._value.data_ptr())

    @property
    def buffers(self) -> list[NDArray[Any]]:
        """Copies."""
        return self._split(np.asarray(self._value.numpy()))

    def copy_rows(self, source: int, target: int, count: int) -> None:
        """The whole slot, which is one piece of memory for each layer's keys and values."""
        if count:
            self._copy(self.device, self._addresses(source), self.device, self._addresses(target))

    def read_rows(self, slot: int, count: int) -> list[NDArray[Any]]:
        """The whole slot."""
        rows = [np.empty(shape[1:], self.layout.dtype) for shape in self.shapes]
        self._copy(self.device, self._addresses(slot), "cpu", _addresses_of(rows))
        return rows

    def write_rows(self, slot: int, rows: list[NDArray[Any]]) -> None:
        self._copy("cpu", _addresses_of(rows), self.device, self._addresses(slot))

    def _addresses(self, slot: int) -> list[int]:
        return [self.address(half, slot) for half in range(len(self.shapes))]

    def _copy(self, from_device: str, sources: list[int], to_device: str, targets: list[int]) -> None:
        """Copy one slot, of which each address is that of a layer's keys or values."""
        binding = self._copier.io_binding()
        element = self.layout.dtype.type
        for half, (source, target) in enumerate(zip(sources, targets, strict=True)):
            length = [self.slot_bytes[half] // self.layout.dtype.itemsize]
            binding.bind_input(_source(half), from_device, 0, element, length, source)
            binding.bind_output(_target(half), to_device, 0, element, length, target)
        self._copier.run_with_iobinding(binding)

    def give_back(self, slot: int, kept: int, stop: int) -> None:
        """Does nothing: the memory stays allocated."""


def _addresses_of(rows: list[NDArray[Any]]) -> list[int]:
    """Of `rows[0]`, `rows[1]`, ..."""
    return [int(part.ctypes.data) for part in rows]


def copy_graph(count: int, element: int) -> bytes:
    """A graph that copies `count` inputs to outputs of the same shape; `element` is a TensorProto type.

    ONNX Runtime's Python API has no other way to copy within a device. Bind inputs and outputs by address. An
    Identity between an input and an output of the graph is never optimized away.
    """
    nodes, inputs, outputs = [], [], []
    for number in range(count):
        nodes.append(helper.make_node("Identity", [_source(number)], [_target(number)]))
        inputs.append(helper.make_tensor_value_info(_source(number), element, [f"size.{number}"]))
        outputs.append(helper.make_tensor_value_info(_target(number), element, [f"size.{number}"]))
    graph = helper.make_graph(nodes, "copy", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", COPY_OPSET)], ir_version=8)
    return bytes(model.SerializeToString())


def _source(number: int) -> str:
    return f"source.{number}"


def _target(number: int) -> str:
    return f"target.{number}"
