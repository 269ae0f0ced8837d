"""One tritonserver process with all that it starts: begun, awaited, ended, and never left behind."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import signal
import socket
import sysconfig
import time
from asyncio.subprocess import Process
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx
import psutil

from api.back.cluster.installation import BACKENDS, ROOT, Installation
from api.back.guard import guarded
from api.back.settings import BackSettings
from api.errors import ServerFault

HOST = "127.0.0.1"
START_SECONDS = 30.0
POLL_SECONDS = 0.02
STOP_SECONDS = 1.5  # nothing of value is lost after it: requests were drained, state lies elsewhere
GONE_SECONDS = 5.0  # how long the kernel may take to end a killed group
MAX_LOG_BYTES = 20 * 1024**2
LOG_TAIL_BYTES = 20_000
SHARED_MEMORY = Path("/dev/shm")
INHERITED = ("HOME", "LANG", "TMPDIR", "TZ", "CUDA_VISIBLE_DEVICES")
STUB_NAME = "triton_python_backend_stub"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ports:
    http: int
    grpc: int
    metrics: int

    @classmethod
    def choose(cls, settings: BackSettings) -> Ports:
        """The ports of the settings; free ones in place of 0."""
        with ExitStack() as held:  # all at once, so that none comes twice
            free = []
            for _ in range(3):
                trial = held.enter_context(socket.socket())
                trial.bind((HOST, 0))
                free.append(trial.getsockname()[1])
        return cls(
            settings.triton_http_port or free[0],
            settings.triton_grpc_port or free[1],
            settings.triton_metrics_port or free[2],
        )


class TritonProcess:
    """A Triton that became ready; its models are loaded through its gRPC port."""

    def __init__(self, process: Process, ports: Ports, settings: BackSettings) -> None:
        self._process = process  # the guard, which leads the group of all
        self.pid = process.pid  # of tritonserver, once it is ready
        self.ports = ports
        self._settings = settings

    @classmethod
    async def start(cls, settings: BackSettings, installation: Installation, ports: Ports) -> TritonProcess:
        """Start it and wait until it is ready to load models. Raises ServerFault with what its log says."""
        log = await asyncio.to_thread(_open_log, settings)
        with log:
            begin = log.tell()
            process = await asyncio.create_subprocess_exec(
                *guarded(_command(settings, installation, ports)),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,  # where the stub looks for `runtime`; it does not read PYTHONPATH
                env=_environment(installation),
                start_new_session=True,
            )
        triton = cls(process, ports, settings)
        try:
            await triton._wait_ready(begin)
            triton.pid = await asyncio.to_thread(_only_child, process.pid)
        except BaseException:
            await triton.kill()
            raise
        return triton

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """Return when the server is gone: its exit status, 128 and the number for a signal."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Ask it to end, wait `STOP_SECONDS`, then make it."""
        if self.running:
            self._process.terminate()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        await self.kill()

    async def kill(self) -> None:
        """End the server and every stub at once; return when all are gone."""
        await asyncio.to_thread(_kill_group, self._process.pid)
        await self._process.wait()
        await asyncio.to_thread(_remove_shared_memory, self._settings)

    async def _wait_ready(self, begin: int) -> None:
        url = f"http://{HOST}:{self.ports.http}/v2/health/ready"
        try:
            async with httpx.AsyncClient(verify=False, trust_env=False, timeout=1.0) as client:
                await asyncio.wait_for(self._poll(client, url), START_SECONDS)
        except asyncio.TimeoutError:
            raise ServerFault(
                f"Triton was not ready within {START_SECONDS:g} s; {self._log_hint(begin)}"
            ) from None
        if not self.running:
            raise ServerFault(f"Triton ended with status {self._process.returncode}; {self._log_hint(begin)}")

    async def _poll(self, client: httpx.AsyncClient, url: str) -> None:
        while self.running:
            with suppress(httpx.TransportError):
                if (await client.get(url)).is_success:
                    return
            await asyncio.sleep(POLL_SECONDS)

    def _log_hint(self, begin: int) -> str:
        """The complaints in its log since `begin`."""
        with log_path(self._settings).open("rb") as log:
            log.seek(begin)
            lines = log.read(LOG_TAIL_BYTES).decode(errors="replace").splitlines()
        complaints = [line for line in lines if line.startswith(("E1", "E0", "error", "Error", "F"))]
        return " | ".join((complaints or lines)[-3:]) or "its log is empty"

    def stub_pids(self, model: str, version: int) -> list[int]:
        """The processes that run this version. Blocking: call it in a thread."""
        script = str(self._settings.repository.absolute() / model / str(version) / "model.py")
        pids = []
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children():
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    if child.cmdline()[1:2] == [script]:
                        pids.append(child.pid)
        return pids

    def end_stub(self, model: str, version: int) -> None:
        """Kill the processes that run this version: one that hangs would never end. Blocking."""
        for pid in self.stub_pids(model, version):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def await_stub_end(self, model: str, version: int, seconds: float) -> None:
        """Wait for the processes of an unloaded version to give back their memory; end laggards. Blocking."""
        end = time.monotonic() + seconds
        while self.stub_pids(model, version):
            if time.monotonic() > end:
                self.end_stub(model, version)
            time.sleep(POLL_SECONDS)


def log_path(settings: BackSettings) -> Path:
    return settings.logs / "triton.log"


def assemble_backends(settings: BackSettings, installation: Installation, source: Path = BACKENDS) -> None:
    """Lay out the folder that Triton takes its backends from: Python's with its stub, and ours. Blocking."""
    if installation.python_backend is None or installation.stub is None:
        raise ServerFault("Triton is not installed: see the preflight")
    python = settings.backends / "python"
    shutil.rmtree(settings.backends, ignore_errors=True)
    shutil.copytree(installation.python_backend, python, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(installation.stub, python / STUB_NAME)
    shutil.copytree(
        source, settings.backends, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )


def end_leftovers(settings: BackSettings) -> None:
    """Kill what a killed façade left: processes whose command line names this home. Blocking."""
    repository = f"--model-repository={settings.repository.absolute()}"
    stub = str(settings.backends.absolute() / "python" / STUB_NAME)
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            command = process.cmdline()
            if repository in command or command[:1] == [stub]:
                logger.warning("ending process %d, left over from an earlier run", process.pid)
                process.kill()
                found.append(process)
    _await_end(found)
    _remove_shared_memory(settings)


def _command(settings: BackSettings, installation: Installation, ports: Ports) -> list[str]:
    return [
        str(installation.server),
        f"--model-repository={settings.repository.absolute()}",
        f"--backend-directory={settings.backends.absolute()}",
        "--model-control-mode=explicit",
        *(f"--{service}-address={HOST}" for service in ("http", "grpc", "metrics")),
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix(settings)}",
        f"--exit-timeout-secs={max(1, round(STOP_SECONDS))}",
        f"--log-info={settings.log_level in ('debug', 'info')}".lower(),
        f"--log-warning={settings.log_level != 'error'}".lower(),
    ]


def _environment(installation: Installation) -> dict[str, str]:
    """Of the caller's environment only what finds programs, GPUs and a place for temporary files."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    scripts = sysconfig.get_path("scripts")
    return {
        **inherited,
        "PATH": os.pathsep.join([scripts, "/usr/local/bin", "/usr/bin", "/bin"]),
        "PYTHONUNBUFFERED": "1",
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, installation.libraries)),
    }


def shared_memory_prefix(settings: BackSettings) -> str:
    """Distinct for each home, and the same in each run, so that leftovers are found."""
    return f"lmaas-{hashlib.sha256(str(settings.home.absolute()).encode()).hexdigest()[:12]}-"


def _remove_shared_memory(settings: BackSettings) -> None:
    for path in SHARED_MEMORY.glob(f"{shared_memory_prefix(settings)}*"):
        path.unlink(missing_ok=True)


def _only_child(guard: int) -> int:
    """Raises ServerFault where it died meanwhile."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(guard).children():
            return int(child.pid)
    raise ServerFault("Triton died as soon as it was ready")


def _open_log(settings: BackSettings) -> BinaryIO:
    settings.logs.mkdir(parents=True, exist_ok=True)
    path = log_path(settings)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    log = path.open("ab")
    log.seek(0, os.SEEK_END)
    return log


def _kill_group(group: int) -> None:
    members = [process for process in psutil.process_iter() if _group_of(process) == group]
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    _await_end(members)


def _group_of(process: psutil.Process) -> int | None:
    with suppress(ProcessLookupError):
        return os.getpgid(process.pid)
    return None


def _await_end(processes: list[psutil.Process]) -> None:
    """Wait for processes that were killed; `GONE_SECONDS` at most."""
    end = time.monotonic() + GONE_SECONDS
    while left := [process.pid for process in processes if _alive(process)]:
        if time.monotonic() > end:
            logger.error("the processes %s outlived SIGKILL by %s s", left, GONE_SECONDS)
            return
        time.sleep(POLL_SECONDS)


def _alive(process: psutil.Process) -> bool:
    """A zombie is none of ours any more: in a container there may be no one who reaps it."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
