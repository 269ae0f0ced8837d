"""Memory of a device that runs read and write: named arrays with their host's copies, and the KV cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from runtime.cuda.stream import Stream
from runtime.memory import CacheLayout, HostArrays, KvMemory


class DeviceArrays(HostArrays):
    """All of them are copied in one piece."""

    def __init__(self, arrays: Mapping[str, tuple[int, DTypeLike]], stream: Stream) -> None:
        self._stream = stream
        super().__init__(arrays)
        self.device = stream.device
        self._buffer = stream.allocate(self._host.size)

    def push(self) -> None:
        """In the order of the stream: what the host writes before its next `wait` may arrive, too."""
        self._stream.push(self._start, self._host.ctypes.data, self._host.size)

    def pull(self) -> None:
        self._stream.pull(self._host.ctypes.data, self._start, self._host.size)

    @property
    def _start(self) -> int:
        return self._buffer.address

    def _allocate_host(self, size: int) -> NDArray[np.uint8]:
        return self._stream.pinned(size)


class DeviceLogits:
    """Rows of logits `[rows, vocab]` float32 that a run left on the device."""

    def __init__(self, rows: int, vocab: int, stream: Stream) -> None:
        self.rows = rows
        self.vocab = vocab
        self._stream = stream
        self._row_bytes = 4 * vocab
        self._buffer = stream.allocate(rows * self._row_bytes)
        host = stream.pinned(rows * self._row_bytes)
        self._host: NDArray[np.float32] = host.view(np.float32).reshape(rows, vocab)

    def bind(self, bind: Callable[..., None], name: str, rows: int) -> None:
        """The first rows; `bind` is a method of a binding."""
        bind(name, self._stream.device, 0, np.float32, (rows, self.vocab), self._buffer.address)

    def pull(self, count: int, first: int = 0) -> NDArray[np.float32]:
        """Rows on the host, once the device was waited for; the next pull of them overwrites them."""
        view = self._host[first : first + count]
        if count:
            start = self._buffer.address + first * self._row_bytes
            self._stream.pull(view.ctypes.data, start, count * self._row_bytes)
        return view


class DeviceKvMemory(KvMemory):
    """Allocated once: nothing is given back, and `max_kv_tokens` only limits which sequences may start.

    It begins with zeros: rows that were never written are read with a weight of zero, and zero times NaN
    would be NaN.
    """

    def __init__(self, layout: CacheLayout, num_slots: int, context_length: int, stream: Stream) -> None:
        super().__init__(layout, num_slots, context_length)
        self._stream = stream
        self.device = stream.device
        self._buffer = stream.allocate(self.size)

    @property
    def start(self) -> int:
        return self._buffer.address

    @property
    def buffers(self) -> list[NDArray[Any]]:
        """Copies."""
        values = np.empty(self.size // self.layout.dtype.itemsize, self.layout.dtype)
        self._stream.pull(values.ctypes.data, self.start, self.size)
        self._stream.wait()
        return self._split(values)

    def copy_rows(self, source: int, target: int, count: int) -> None:
        """In the order of the device's stream, before the next run."""
        size = count * self.layout.row_bytes
        for half, shape in enumerate(self.shapes if count else ()):
            there, here = self.address(half, source), self.address(half, target)
            self._stream.copy_rows(here, there, size, self.head_bytes, shape[1])

    def read_rows(self, slot: int, count: int) -> list[NDArray[Any]]:
        """The whole slot."""
        rows = [np.empty(shape[1:], self.layout.dtype) for shape in self.shapes]
        for half, part in enumerate(rows):
            self._stream.pull(part.ctypes.data, self.address(half, slot), part.nbytes)
        self._stream.wait()
        return rows

    def write_rows(self, slot: int, rows: list[NDArray[Any]]) -> None:
        for half, part in enumerate(rows):
            self._stream.push(self.address(half, slot), part.ctypes.data, part.nbytes)
        self._stream.wait()  # `rows` may go

    def give_back(self, slot: int, kept: int, stop: int) -> None:
        """Does nothing: the memory stays allocated."""
