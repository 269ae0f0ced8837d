"""The memory of a KV cache: one anonymous mapping, whose pages come when written and go when given back."""

from __future__ import annotations

import mmap
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


class KvMemory:
    """`buffers` [2 * layers, slots, heads, context, head_size]: layer 0's keys, its values, layer 1's ..."""

    def __init__(self, layout: CacheLayout, num_slots: int, context_length: int) -> None:
        shape = (2 * layout.num_layers, num_slots, layout.num_heads, context_length, layout.head_size)
        self._head_bytes = context_length * layout.row_bytes
        self._slot_bytes = layout.num_heads * self._head_bytes
        self._row_bytes = layout.row_bytes
        self._shape = shape
        size = shape[0] * num_slots * self._slot_bytes
        self._mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # A huge page would hold some rows of many heads, and memory would follow capacity instead of use.
        with suppress(OSError):  # a kernel that has none refuses
            self._mapping.madvise(mmap.MADV_NOHUGEPAGE)
        self.buffers: NDArray[Any] = np.frombuffer(self._mapping, layout.dtype).reshape(shape)
        # So many rows of a head may lie in one page: fewer are not worth a call.
        self.rows_per_page = -(-mmap.PAGESIZE // layout.row_bytes)

    def copy_rows(self, source: int, target: int, count: int) -> None:
        """The first `count` rows of a slot into another slot."""
        if count:
            self.buffers[:, target, :, :count] = self.buffers[:, source, :, :count]

    def give_back(self, slot: int, kept: int, stop: int) -> None:
        """Give the pages of the slot's rows [kept, stop) back to the operating system.

        The rows are zero then. Those from `stop` on may go with them, since nobody has written there.
        """
        for layer_half in range(self._shape[0]):
            start = (layer_half * self._shape[1] + slot) * self._slot_bytes
            if kept == 0:
                self._release(start, start + self._slot_bytes)
                continue
            for head in range(start, start + self._slot_bytes, self._head_bytes):
                self._release(head + kept * self._row_bytes, head + stop * self._row_bytes)

    def _release(self, start: int, stop: int) -> None:
        """The whole pages within [start, stop), bytes."""
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = stop // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            self._mapping.madvise(mmap.MADV_DONTNEED, first, length)
