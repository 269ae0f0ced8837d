"""CUDA's libraries and the GPU's driver, asked before ONNX Runtime needs them.

ONNX Runtime only prints what it cannot load, and then computes on the CPU. The functions of the driver:
https://docs.nvidia.com/cuda/cuda-driver-api. None of them takes memory of a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import io

import onnxruntime

DRIVER = "libcuda.so.1"
INSTALL = "pip install 'lmaas[gpu]'"


def problem() -> str | None:
    """What this process lacks to compute on a GPU, with the remedy; None: nothing.

    What pip installed of CUDA is loaded afterwards.
    """
    version: str = onnxruntime.cuda_version
    with contextlib.redirect_stdout(io.StringIO()):  # the lines are for a person who watches
        onnxruntime.preload_dlls()
    lacking = [name for name in libraries(version) if not _loads(name)]
    if lacking:
        return f"of CUDA {version} these cannot be loaded: {', '.join(lacking)}: {INSTALL}"
    if not _loads(DRIVER):
        return f"the GPU's driver ({DRIVER}) cannot be loaded: install it; a container needs --gpus=all"
    supported = driver_version()
    if supported < _number(version):
        return (
            f"the GPU's driver supports CUDA {supported // 1000}.{supported % 1000 // 10}, and this ONNX "
            f"Runtime is built for {version}: install a newer driver"
        )
    if not num_gpus():
        return "the driver finds no GPU for this process: see nvidia-smi, and CUDA_VISIBLE_DEVICES"
    return None


def libraries(version: str) -> list[str]:
    """What ONNX Runtime's provider for a version of CUDA (`13.0`) is linked to, beside the driver."""
    major = version.partition(".")[0]
    named = [f"{name}.so.{major}" for name in ("libcudart", "libcublasLt", "libcublas")]
    return [*named, "libcurand.so.10"]


def driver_version() -> int:
    """The newest CUDA that the driver supports: 13000 is 13.0."""
    found = ctypes.c_int()
    ctypes.CDLL(DRIVER).cuDriverGetVersion(ctypes.byref(found))
    return found.value


def num_gpus() -> int:
    """GPUs that this process may use."""
    driver, found = ctypes.CDLL(DRIVER), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(found)):
        return 0
    return found.value


def gpu_name() -> str:
    """Of the first GPU of this process; empty: there is none."""
    driver, device, name = ctypes.CDLL(DRIVER), ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return ""
    driver.cuDeviceGetName(name, len(name), device)
    return name.value.decode()


def _number(version: str) -> int:
    """`13.0` as the driver counts: 13000. A driver of the same major version runs newer minor ones, too."""
    return 1000 * int(version.partition(".")[0])


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
