"""The code path of a GPU on the CPU: for tests, and for what the host does in a step."""

from __future__ import annotations

import ctypes
from functools import cached_property

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from kernels.session import CPU
from runtime.cuda.accelerator import Accelerator, Provider
from runtime.cuda.plan_session import ALIGNMENT
from runtime.cuda.stream import Buffer, Stream


class HostBuffer(Buffer):
    def __init__(self, values: NDArray[np.uint8]) -> None:
        super().__init__(int(values.ctypes.data), len(values))
        self._values = values


class HostStream(Stream):
    """The memory of the host; every copy is done when its call returns."""

    device = "cpu"
    handle = 0

    def allocate(self, size: int) -> Buffer:
        """Aligned as memory of CUDA is."""
        values = self.pinned(size + ALIGNMENT)
        start = -values.ctypes.data % ALIGNMENT
        return HostBuffer(values[start : start + size])

    def pinned(self, size: int) -> NDArray[np.uint8]:
        return np.zeros(size, np.uint8)

    def push(self, target: int, source: int, size: int) -> None:
        ctypes.memmove(target, source, size)

    pull = push

    def copy_rows(self, target: int, source: int, size: int, pitch: int, count: int) -> None:
        for row in range(count):
            ctypes.memmove(target + row * pitch, source + row * pitch, size)

    def wait(self) -> None:
        """Nothing is under way."""


class Stand(Accelerator):
    """The CPU; everything but the providers and the copies is as on a GPU."""

    @cached_property
    def stream(self) -> Stream:
        return HostStream()

    def check(self) -> None:
        """The CPU is always there."""

    def providers(self, capture: bool) -> list[Provider]:
        return [CPU]

    def check_opened(self, session: onnxruntime.InferenceSession) -> None:
        assert session.get_providers() == [CPU]
