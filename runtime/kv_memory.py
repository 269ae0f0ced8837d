"""The memory of a KV cache. On the host: one anonymous mapping, whose pages come when written and go when
given back. On a device: `runtime/device_memory.py`.
"""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """The cache that a graph asks for; `head_size` may be padded beyond the model's own."""

    num_layers: int
    num_heads: int
    head_size: int
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Of one token in one head of one layer's keys, or of its values."""
        return self.head_size * self.dtype.itemsize


class KvMemory(ABC):
    """[2 * layers, slots, heads, context, head_size]: layer 0's keys, its values, layer 1's ..."""

    device = "cpu"  # as onnxruntime's bindings name it
    rows_per_page = 1  # so many rows of a head, and fewer, are not worth a call of `give_back`

    def __init__(self, layout: CacheLayout, num_slots: int, context_length: int) -> None:
        self.layout = layout
        self.num_slots = num_slots
        self.context_length = context_length
        self.head_bytes = context_length * layout.row_bytes
        self.slot_bytes = layout.num_heads * self.head_bytes

    @property
    def shape(self) -> tuple[int, ...]:
        layout = self.layout
        return (
            2 * layout.num_layers,
            self.num_slots,
            layout.num_heads,
            self.context_length,
            layout.head_size,
        )

    def address(self, half: int, slot: int) -> int:
        """Of a slot's keys of layer `half / 2`, or its values where `half` is odd; the next slot follows."""
        return self.start + self.offset(half, slot)

    def offset(self, half: int, slot: int) -> int:
        """Bytes from the start."""
        return (half * self.num_slots + slot) * self.slot_bytes

    @property
    @abstractmethod
    def start(self) -> int:
        """The address of the first byte."""

    @property
    @abstractmethod
    def buffers(self) -> NDArray[Any]:
        """What is in it, `shape`: the memory itself where it is the host's."""

    @abstractmethod
    def copy_rows(self, source: int, target: int, count: int) -> None:
        """At least the first `count` rows of a slot into another slot."""

    @abstractmethod
    def give_back(self, slot: int, kept: int, stop: int) -> None:
        """Give the memory of the slot's rows [kept, stop) back, if it can be.

        Those from `stop` on may go with them, since nobody has written there.
        """


class HostKvMemory(KvMemory):
    def __init__(self, layout: CacheLayout, num_slots: int, context_length: int) -> None:
        super().__init__(layout, num_slots, context_length)
        size = self.shape[0] * num_slots * self.slot_bytes
        self._mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # A huge page would hold some rows of many heads, and memory would follow capacity instead of use.
        with suppress(OSError):  # a kernel that has none refuses
            self._mapping.madvise(mmap.MADV_NOHUGEPAGE)
        self._buffers: NDArray[Any] = np.frombuffer(self._mapping, layout.dtype).reshape(self.shape)
        # So many rows of a head may lie in one page.
        self.rows_per_page = -(-mmap.PAGESIZE // layout.row_bytes)

    @property
    def start(self) -> int:
        return int(self._buffers.ctypes.data)

    @property
    def buffers(self) -> NDArray[Any]:
        return self._buffers

    def copy_rows(self, source: int, target: int, count: int) -> None:
        if count:
            self._buffers[:, target, :, :count] = self._buffers[:, source, :, :count]

    def give_back(self, slot: int, kept: int, stop: int) -> None:
        """The rows are zero then; their pages go back to the operating system."""
        for half in range(self.shape[0]):
            start = self.offset(half, slot)
            if kept == 0:
                self._release(start, start + self.slot_bytes)
                continue
            for head in range(start, start + self.slot_bytes, self.head_bytes):
                self._release(head + kept * self.layout.row_bytes, head + stop * self.layout.row_bytes)

    def _release(self, start: int, stop: int) -> None:
        """The whole pages within [start, stop), bytes."""
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = stop // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            self._mapping.madvise(mmap.MADV_DONTNEED, first, length)
