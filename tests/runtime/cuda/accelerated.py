"""Engines with the code path of a GPU on the CPU: one stream, sampling in graphs, buckets."""

from __future__ import annotations

import ctypes
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from kernels.session import CPU
from runtime.config import EngineConfig
from runtime.contract import GRAPH_FILE, TOKENIZER_FILE, Variant
from runtime.cuda.accelerator import CUDA, Accelerator, Provider
from runtime.cuda.stream import Buffer, Stream
from runtime.engine import Engine
from runtime.manifest import Manifest
from runtime.session import LmSession
from runtime.text import Tokenizer

HAS_GPU = CUDA in onnxruntime.get_available_providers()


class HostBuffer(Buffer):
    def __init__(self, values: NDArray[np.uint8]) -> None:
        super().__init__(int(values.ctypes.data), len(values))
        self._values = values


class HostStream(Stream):
    """The memory of the host; every copy is done when its call returns."""

    device = "cpu"
    handle = 0

    def allocate(self, size: int) -> Buffer:
        return HostBuffer(self.pinned(size))

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


def accelerated_engine(
    artifact: Path,
    variant: Variant = Variant.FP32,
    accelerator: Accelerator | None = None,
    **settings: Any,
) -> Engine:
    manifest = Manifest.load(artifact)
    session = LmSession(artifact / variant.value / GRAPH_FILE, 1, accelerator or Stand())
    tokenizer = Tokenizer(artifact / TOKENIZER_FILE, manifest.architecture.eos_token_id)
    return Engine(manifest, EngineConfig(variant, **settings), session, tokenizer, lambda: None)
