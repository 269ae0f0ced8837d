"""What this machine lacks to run the appliance, each in one line with its remedy, before anything starts."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from api.back.cluster.installation import PYTHON, Installation
from api.back.cluster.resources import available_memory
from api.back.cluster.server_home import HOST, PORT_STEP, SHARED_MEMORY
from api.back.settings import BackSettings
from kernels.library import LevelError, missing
from kernels.processors import usable_cores
from runtime.contract import Device

MIB = 1024**2
MIN_MEMORY = 1024 * MIB  # Triton and the four bundled models
SERVER_MEMORY = 256 * MIB  # each further server, without models
MIN_SHARED_MEMORY = 32 * MIB  # each model begins with 1 MiB and grows with its largest message
LAST_PORT = 65535
MAX_HOME = 400  # bytes of its path: SQLite opens no file with one beyond 512


@dataclass(frozen=True, slots=True)
class Machine:
    """What preflight looks at."""

    system: str  # as platform.system() says
    processor: str  # as platform.machine() says
    python: str
    installation: Installation
    memory: int  # bytes available
    shared_memory: int  # bytes free in /dev/shm
    processors: int  # that this process may use

    @classmethod
    def look(cls) -> Machine:
        shared = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else 0
        linux = sys.platform == "linux"
        memory = available_memory() if linux else 0
        processors = usable_cores() if linux else 0
        return cls(
            platform.system(), platform.machine(), PYTHON, Installation.find(), memory, shared, processors
        )


def find_problems(settings: BackSettings, machine: Machine | None = None) -> list[str]:
    """An empty list where all is well. Blocking, some milliseconds."""
    machine = machine or Machine.look()
    if (machine.system, machine.processor) != ("Linux", "x86_64"):
        return [
            f"this is {machine.system} on {machine.processor}, and the Triton that comes from PyPI is for "
            "Linux on x86_64: run it there, or in a container of that kind"
        ]
    return [
        *(_missing_parts(machine) if settings.servers else ()),
        *(_missing_providers(settings) if settings.servers else ()),
        *(_missing_instructions() if settings.servers else ()),
        *_few_processors(settings, machine),
        *_scarce_memory(settings, machine),
        *_taken_ports(settings),
        *(_unfit(settings.home) or _unwritable(settings.home)),
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
    if found.missing_libpython is not None:
        problems.append(found.missing_libpython)
    problems += [
        f"the loader cannot search {folder}, for a : or ; in its name separates two folders: "
        "install LMaaS in a folder without"
        for folder in found.libraries
        if set(":;") & set(str(folder))
    ]
    return problems


def _missing_providers(settings: BackSettings) -> list[str]:
    if settings.engine.device is Device.CPU:
        return []
    # A façade whose models run on the CPU does without ONNX Runtime.
    from runtime.cuda.accelerator import Accelerator, AcceleratorError

    accelerator = Accelerator()
    try:
        accelerator.check()
    except AcceleratorError as error:
        return [f"LMAAS_DEVICE is cuda, but {error}"]
    return _too_many_servers(settings, accelerator.num_gpus, "sees {} GPUs")


def _missing_instructions() -> list[str]:
    try:
        missing()
    except LevelError as error:
        return [str(error)]
    return []


def _few_processors(settings: BackSettings, machine: Machine) -> list[str]:
    return _too_many_servers(settings, machine.processors, "may use {} processors")


def _too_many_servers(settings: BackSettings, available: int, words: str) -> list[str]:
    """Each server needs one of the `available`; `words` say what this process has of them."""
    if settings.all_servers <= available:
        return []
    most, each = available, ""
    if settings.facades > 1:
        most, each = most // settings.facades, f" for each of {settings.facades} façades (LMAAS_FACADES)"
    remedy = f"set it to {most} at most" if most else "lower LMAAS_FACADES"
    return [
        f"LMAAS_SERVERS is {settings.servers}{each}, but this process {words.format(available)}, "
        f"one for each server: {remedy}"
    ]


def _scarce_memory(settings: BackSettings, machine: Machine) -> list[str]:
    problems = []
    needed = MIN_MEMORY + (settings.all_servers - 1) * SERVER_MEMORY
    if machine.memory < needed:
        fewer = ", or lower LMAAS_SERVERS" if settings.servers > 1 else ""
        fewer += ", or lower LMAAS_FACADES" if settings.facades > 1 else ""
        problems.append(
            f"{machine.memory // MIB} MiB of memory are free, at least {needed // MIB} MiB are needed: "
            f"end other programs, or raise the container's limit{fewer}"
        )
    if settings.servers and machine.shared_memory < MIN_SHARED_MEMORY:
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
    ports = [
        (port + PORT_STEP * number, name)
        for number in range(settings.all_servers)
        for name, port in wanted.items()
        if port
    ]
    problems = [
        f"port {port} is taken: set {name} to a free one, or to 0 to have one chosen"
        for port, name in ports
        if port <= LAST_PORT and not is_port_free(HOST, port)
    ]
    problems += [
        f"{name} leads to port {port} with {settings.all_servers} servers; the last port is {LAST_PORT}"
        for port, name in ports
        if port > LAST_PORT
    ]
    numbers = [port for port, _ in ports]
    problems += [
        f"{name} leads to port {port} for two servers, each {PORT_STEP} above the one before: set it to 0, "
        "or to a port further away"
        for port, name in ports
        if numbers.count(port) > 1
    ]
    return problems


def is_port_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _unfit(home: Path) -> list[str]:
    path = str(home.absolute())
    if not path.isascii():
        # Triton's Python reads file names as ASCII, and aborts with an error that names another cause.
        return [
            f"the path of the state's folder, {path!a}, has characters beyond ASCII, which Triton's Python"
            " cannot read: set LMAAS_HOME to a folder without"
        ]
    length = len(os.fsencode(path))
    if length <= MAX_HOME:
        return []
    return [
        f"the path of the state's folder has {length} bytes, at most {MAX_HOME} are possible: "
        "set LMAAS_HOME to a folder with a shorter one"
    ]


def _unwritable(home: Path) -> list[str]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        trial = home / ".writable"
        trial.touch()
        trial.unlink()
    except OSError as error:
        return [f"the folder {home} cannot be written ({error.strerror}): set LMAAS_HOME to one that can"]
    return []
