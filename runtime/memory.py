"""Memory that runs of a graph read and write: the KV cache, and named arrays. The device's: runtime/cuda.

The KV cache on the host is one anonymous mapping, whose pages are allocated when they are written and
returned to the operating system when their rows are given back.
"""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ALIGNMENT = 256  # bytes, as cudaMalloc aligns


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """The cache that a graph asks for; `head_size` may be padded beyond the model's own."""

    layer_heads: tuple[int, ...]  # the number of heads of each layer
    head_size: int
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one token in one head of one layer's keys, or of its values."""
        return self.head_size * self.dtype.itemsize


class KvMemory(ABC):
    """One array for each half: layer 0's keys, its values, layer 1's ...

    Each is [slots, heads of the layer, context, head_size]; they lie one after the other.
    """

    device = "cpu"  # as onnxruntime's bindings name it
    rows_per_page = 1  # `give_back` is not worth a call for this number of rows of a head, or fewer

    def __init__(self, layout: CacheLayout, num_slots: int, context_length: int) -> None:
        self.layout = layout
        self.num_slots = num_slots
        self.context_length = context_length
        self.head_bytes = context_length * layout.row_bytes
        heads = [heads for heads in layout.layer_heads for _ in ("keys", "values")]
        self.shapes = [(num_slots, count, context_length, layout.head_size) for count in heads]
        self.slot_bytes = [count * self.head_bytes for count in heads]  # of each half
        self._offsets = [0, *accumulate(num_slots * size for size in self.slot_bytes)]
        self.size = self._offsets.pop()  # bytes in all

    def address(self, half: int, slot: int) -> int:
        """Of a slot's keys of layer `half / 2`, or its values if `half` is odd; the next slot follows."""
        return self.start + self.offset(half, slot)

    def offset(self, half: int, slot: int) -> int:
        """Bytes from the start."""
        return self._offsets[half] + slot * self.slot_bytes[half]

    def _split(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Views of the memory's `values` in their order, one of each half."""
        ends = [end // self.layout.dtype.itemsize for end in self._offsets[1:]]
        parts = np.split(values, ends)
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    @property
    @abstractmethod
    def start(self) -> int:
        """The address of the first byte."""

    @property
    @abstractmethod
    def buffers(self) -> list[NDArray[Any]]:
        """The contents, of `shapes`: views of the memory if it is the host's, else copies."""

    @abstractmethod
    def copy_rows(self, source: int, target: int, count: int) -> None:
        """Copy at least the first `count` rows of a slot into another slot."""

    @abstractmethod
    def read_rows(self, slot: int, count: int) -> list[NDArray[Any]]:
        """At least the first `count` rows of a slot, copied to the host.

        [heads, rows, head_size] of each half.
        """

    @abstractmethod
    def write_rows(self, slot: int, rows: list[NDArray[Any]]) -> None:
        """Write what `read_rows` returned into a slot."""

    @abstractmethod
    def give_back(self, slot: int, kept: int, stop: int) -> None:
        """Give the memory of the slot's rows [kept, stop) back, if it can be.

        Rows from `stop` on may be given back with them, as they were never written.
        """


class HostKvMemory(KvMemory):
    def __init__(self, layout: CacheLayout, num_slots: int, context_length: int) -> None:
        super().__init__(layout, num_slots, context_length)
        self._mapping = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # A huge page holds rows of many heads: memory would follow capacity instead of use. A kernel without
        # huge pages refuses the call.
        with suppress(OSError):
            self._mapping.madvise(mmap.MADV_NOHUGEPAGE)
        self._values: NDArray[Any] = np.frombuffer(self._mapping, layout.dtype)
        self._buffers = self._split(self._values)
        self.rows_per_page = -(-mmap.PAGESIZE // layout.row_bytes)

    @property
    def start(self) -> int:
        return int(self._values.ctypes.data)

    @property
    def buffers(self) -> list[NDArray[Any]]:
        return self._buffers

    def copy_rows(self, source: int, target: int, count: int) -> None:
        if count:
            for buffer in self._buffers:
                buffer[target, :, :count] = buffer[source, :, :count]

    def read_rows(self, slot: int, count: int) -> list[NDArray[Any]]:
        return [buffer[slot, :, :count].copy() for buffer in self._buffers]

    def write_rows(self, slot: int, rows: list[NDArray[Any]]) -> None:
        for buffer, part in zip(self._buffers, rows, strict=True):
            buffer[slot, :, : part.shape[1]] = part

    def give_back(self, slot: int, kept: int, stop: int) -> None:
        """The rows are zero afterwards; their whole pages go back to the operating system."""
        for half, size in enumerate(self.slot_bytes):
            start = self.offset(half, slot)
            if kept == 0:
                self._release(start, start + size)
                continue
            for head in range(start, start + size, self.head_bytes):
                self._release(head + kept * self.layout.row_bytes, head + stop * self.layout.row_bytes)

    def _release(self, start: int, stop: int) -> None:
        """The whole pages within [start, stop), bytes."""
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = stop // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            self._mapping.madvise(mmap.MADV_DONTNEED, first, length)


class HostArrays:
    """Named arrays side by side in one piece of memory; `arrays` are the host's view of them."""

    device = "cpu"

    def __init__(self, arrays: Mapping[str, tuple[int, DTypeLike]]) -> None:
        """`arrays`: the number of values of each array, and their type."""
        self._offsets: dict[str, int] = {}
        size = 0
        for name, (count, dtype) in arrays.items():
            self._offsets[name] = size
            size += -(-count * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
        self._host = self._allocate_host(size)
        self.arrays: dict[str, NDArray[Any]] = {
            name: self._host[self._offsets[name] :][: count * np.dtype(dtype).itemsize].view(dtype)
            for name, (count, dtype) in arrays.items()
        }

    def address(self, name: str) -> int:
        """Where a run reads or writes the array."""
        return self._start + self._offsets[name]

    def push(self) -> None:
        """Copy what the host wrote to where runs read it."""

    def pull(self) -> None:
        """Copy what runs wrote to where the host reads it."""

    @property
    def _start(self) -> int:
        return int(self._host.ctypes.data)

    def _allocate_host(self, size: int) -> NDArray[np.uint8]:
        """Zeros."""
        return np.zeros(size, np.uint8)
