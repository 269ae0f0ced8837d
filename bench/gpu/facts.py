"""What machine it is: the GPU and its driver, where CUDA's libraries lie, and versions."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnxruntime

from bench.gpu.runner import Line
from runtime.cuda import libraries

ASKED = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,mig.mode.current"
PACKAGES = ("onnxruntime-gpu", "numpy", "torch", "transformers", "nvidia-cudnn-cu13", "nvidia-cublas")
# cudaDeviceAttr: kilohertz of the memory, and bits of its bus; two transfers in a cycle.
MEMORY_CLOCK, BUS_WIDTH = 36, 37


def facts() -> Iterator[Line]:
    yield {"gpu": _ask_nvidia_smi(), "gpus": libraries.num_gpus()}
    yield {"driver_cuda": libraries.driver_version(), "onnxruntime_cuda": onnxruntime.cuda_version}
    yield {"libraries": _loaded(), "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}
    packages = {name: _version(name) for name in PACKAGES}
    yield {"python": platform.python_version(), "cores": os.cpu_count(), "packages": packages}
    if bandwidth := data_sheet():
        yield {"ceiling": "clock times width of the memory, by the driver", "bytes_per_second": bandwidth}


def data_sheet() -> float:
    """Bytes per second of the first GPU's memory; 0 where the driver does not say."""
    runtime, found = ctypes.CDLL(libraries.libraries(onnxruntime.cuda_version)[0]), ctypes.c_int()
    values = []
    for attribute in (MEMORY_CLOCK, BUS_WIDTH):
        failed = runtime.cudaDeviceGetAttribute(ctypes.byref(found), attribute, 0)
        values.append(0 if failed else found.value)
    clock, width = values
    return 2 * 1000 * clock * width / 8


def _ask_nvidia_smi() -> str:
    command = ["nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi: {error}"
    return (ended.stdout or ended.stderr).strip()


def _loaded() -> list[str]:
    """Files of this process's CUDA libraries and of the driver."""
    files = {line.split()[-1] for line in Path("/proc/self/maps").read_text("utf-8").splitlines()}
    return sorted(file for file in files if Path(file).name.startswith(("libcu", "libnvidia")))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
