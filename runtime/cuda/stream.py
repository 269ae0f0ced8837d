"""The memory of a GPU and one stream, in whose order all runs and copies happen, by CUDA's runtime itself.

ONNX Runtime's Python API copies whole values, and waits for each copy. Here copies join the stream, and the
host waits once. The functions: https://docs.nvidia.com/cuda/cuda-runtime-api.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from runtime.cuda.libraries import libraries

_NON_BLOCKING = 1  # cudaStreamNonBlocking: in no order with the stream that ONNX Runtime loads weights on
_TO_DEVICE, _TO_HOST, _WITHIN = 1, 2, 3  # cudaMemcpyKind


class CudaError(RuntimeError):
    """A call of CUDA's runtime failed; one line."""


class Buffer:
    """Memory at `address`, `size` bytes, which stays as long as the object."""

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.size = size


class Stream(Protocol):
    """Memory of a device, and copies in the order of one stream; `wait` returns when all are done."""

    device: str  # in ONNX Runtime's bindings
    handle: int  # a cudaStream_t

    def allocate(self, size: int) -> Buffer:
        """Memory of the device that holds zeros; raises CudaError where there is not enough."""

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Memory of the host that the device reads and writes directly, at first zeros."""

    def push(self, target: int, source: int, size: int) -> None:
        """Copy from the host's address `source`."""

    def pull(self, target: int, source: int, size: int) -> None:
        """Copy to the host's address `target`."""

    def copy_rows(self, target: int, source: int, size: int, pitch: int, count: int) -> None:
        """Copy `count` rows of `size` bytes within the device; each begins `pitch` bytes after the last."""

    def wait(self) -> None: ...


class CudaStream(Stream):
    """Of the first GPU of this process; call `libraries.problem` before."""

    device = "cuda"

    def __init__(self) -> None:
        runtime, *_ = libraries(onnxruntime.cuda_version)
        self._cuda = ctypes.CDLL(runtime)
        self._cuda.cudaGetErrorString.restype = ctypes.c_char_p
        found = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(found), _NON_BLOCKING)
        self.handle = int(found.value or 0)

    def allocate(self, size: int) -> Buffer:
        found = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(found), ctypes.c_size_t(size))
        buffer = Buffer(int(found.value or 0), size)
        weakref.finalize(buffer, self._cuda.cudaFree, found)
        self._call("cudaMemsetAsync", found, 0, ctypes.c_size_t(size), ctypes.c_void_p(self.handle))
        self.wait()
        return buffer

    def pinned(self, size: int) -> NDArray[np.uint8]:
        found = ctypes.c_void_p()
        self._call("cudaHostAlloc", ctypes.byref(found), ctypes.c_size_t(size), 0)
        memory = (ctypes.c_uint8 * size).from_address(int(found.value or 0))
        weakref.finalize(memory, self._cuda.cudaFreeHost, found)
        array: NDArray[np.uint8] = np.ctypeslib.as_array(memory)
        array[:] = 0
        return array

    def push(self, target: int, source: int, size: int) -> None:
        self._copy(target, source, size, _TO_DEVICE)

    def pull(self, target: int, source: int, size: int) -> None:
        self._copy(target, source, size, _TO_HOST)

    def copy_rows(self, target: int, source: int, size: int, pitch: int, count: int) -> None:
        pointers = ctypes.c_void_p(target), ctypes.c_size_t(pitch), ctypes.c_void_p(source)
        sizes = (ctypes.c_size_t(number) for number in (pitch, size, count))
        self._call("cudaMemcpy2DAsync", *pointers, *sizes, _WITHIN, ctypes.c_void_p(self.handle))

    def wait(self) -> None:
        self._call("cudaStreamSynchronize", ctypes.c_void_p(self.handle))

    def _copy(self, target: int, source: int, size: int, kind: int) -> None:
        pointers = ctypes.c_void_p(target), ctypes.c_void_p(source)
        self._call("cudaMemcpyAsync", *pointers, ctypes.c_size_t(size), kind, ctypes.c_void_p(self.handle))

    def _call(self, function: str, *arguments: Any) -> None:
        if error := getattr(self._cuda, function)(*arguments):
            raise CudaError(f"{function}: {self._cuda.cudaGetErrorString(error).decode()} ({error})")
