"""What this machine lacks to run the appliance, each in one line with its remedy, before anything starts."""

from __future__ import annotations

import platform
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from api.back.cluster.installation import LIBPYTHON, PYTHON, Installation
from api.back.cluster.resources import available_memory
from api.back.settings import BackSettings
from runtime.contract import Device

MIB = 1024**2
MIN_MEMORY = 1024 * MIB  # Triton and the four bundled models
MIN_SHARED_MEMORY = 32 * MIB  # each model begins with 1 MiB and grows with its largest message
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Machine:
    """What preflight looks at."""

    system: str  # as platform.system() says
    processor: str  # as platform.machine() says
    python: str
    installation: Installation
    memory: int  # bytes available
    shared_memory: int  # bytes free in /dev/shm

    @classmethod
    def look(cls) -> Machine:
        shared = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else 0
        linux = sys.platform == "linux"
        memory = available_memory() if linux else 0
        return cls(platform.system(), platform.machine(), PYTHON, Installation.find(), memory, shared)


def find_problems(settings: BackSettings, machine: Machine | None = None) -> list[str]:
    """An empty list where all is well. Blocking, some milliseconds."""
    machine = machine or Machine.look()
    if (machine.system, machine.processor) != ("Linux", "x86_64"):
        return [
            f"this is {machine.system} on {machine.processor}, and the Triton that comes from PyPI is for "
            "Linux on x86_64: run it there, or in a container of that kind"
        ]
    return [
        *_missing_parts(machine),
        *_missing_providers(settings),
        *_scarce_memory(machine),
        *_taken_ports(settings),
        *_unwritable(settings.home),
    ]


def _missing_parts(machine: Machine) -> list[str]:
    found = machine.installation
    if found.server is None or found.python_backend is None:
        return [
            "the package nvidia-pytriton, which carries Triton, is not installed: pip install 'lmaas[serve]'"
        ]
    problems = []
    if found.stub is None:
        problems.append(
            f"Triton has no Python backend for Python {machine.python}: use Python 3.10, 3.11 or 3.12"
        )
    if found.libpython is None:
        problems.append(
            f"Python {machine.python} has no shared library ({LIBPYTHON}), which Triton's Python backend "
            f"loads: apt-get install libpython{machine.python} (or dnf install python{machine.python}-libs)"
        )
    return problems


def _missing_providers(settings: BackSettings) -> list[str]:
    if settings.device is Device.CPU:
        return []
    # A façade whose models run on the CPU does without ONNX Runtime.
    from kernels.accelerator import Accelerator, AcceleratorError

    try:
        Accelerator(settings.tensorrt_cache).check()
    except AcceleratorError as error:
        name = "LMAAS_TENSORRT is true" if settings.tensorrt else "LMAAS_DEVICE is cuda"
        return [f"{name}, but {error}"]
    return []


def _scarce_memory(machine: Machine) -> list[str]:
    problems = []
    if machine.memory < MIN_MEMORY:
        problems.append(
            f"{machine.memory // MIB} MiB of memory are free, at least {MIN_MEMORY // MIB} MiB are needed: "
            "end other programs, or raise the container's limit"
        )
    if machine.shared_memory < MIN_SHARED_MEMORY:
        problems.append(
            f"/dev/shm has {machine.shared_memory // MIB} MiB free, at least {MIN_SHARED_MEMORY // MIB} MiB "
            "are needed between Triton and its models: docker run --shm-size=256m, or free some of it"
        )
    return problems


def _taken_ports(settings: BackSettings) -> list[str]:
    wanted = {
        "LMAAS_TRITON_HTTP_PORT": settings.triton_http_port,
        "LMAAS_TRITON_GRPC_PORT": settings.triton_grpc_port,
        "LMAAS_TRITON_METRICS_PORT": settings.triton_metrics_port,
    }
    return [
        f"port {port} is taken: set {name} to a free one, or to 0 to have one chosen"
        for name, port in wanted.items()
        if port and not is_port_free("127.0.0.1", port)
    ]


def is_port_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _unwritable(home: Path) -> list[str]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        trial = home / ".writable"
        trial.touch()
        trial.unlink()
    except OSError as error:
        return [f"the folder {home} cannot be written ({error.strerror}): set LMAAS_HOME to one that can"]
    return []
