"""The driver of a Triton that runs as a child process of the façade, on this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress

import psutil

from api.back.cluster.addresses import Endpoints
from api.back.cluster.cleanup import POLL_SECONDS
from api.back.cluster.driver import Capabilities
from api.back.cluster.installation import Installation
from api.back.cluster.records import ModelVersion
from api.back.cluster.repository import ModelRepository
from api.back.cluster.resources import available_gpu_memory, available_memory, gpu_of
from api.back.cluster.server_home import HOST, Ports, ServerHome
from api.back.cluster.triton_process import PortTaken, TritonProcess
from kernels.library import described_level, missing
from runtime.contract import Device

PORT_TRIES = 3  # a port that was free when it was chosen may be taken before Triton opens it


class LocalTriton:
    """A `ServerDriver`. The processes of a model are the stubs that Triton's Python backend starts."""

    shared = False
    leaving = False

    def __init__(self, home: ServerHome, installation: Installation, repository: ModelRepository) -> None:
        self.name = home.name
        self.repository = repository
        self._home = home
        self._installation = installation
        self._ports = Ports.choose(home)
        self._process: TritonProcess | None = None

    @property
    def endpoints(self) -> Endpoints:
        ports = self._ports
        http = None if ports.http is None else f"{HOST}:{ports.http}"
        return Endpoints(f"{HOST}:{ports.grpc}", http, f"{HOST}:{ports.metrics}")

    @property
    def key(self) -> str:
        return "" if self._process is None else self._process.key

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.running else None

    @property
    def kernels(self) -> str | None:
        return described_level() if self._home.settings.engine.device is Device.CPU else None

    async def start(self, seconds: float) -> None:
        self._process = None
        for tries_left in reversed(range(PORT_TRIES)):
            try:
                self._process = await TritonProcess.start(
                    self._home, self._installation, self._ports, seconds
                )
                return
            except PortTaken:  # noqa: PERF203 - trying again is the point
                taken, self._ports = self._ports, Ports.choose(self._home)
                if not tries_left or taken == self._ports:  # equal: all are fixed by the settings
                    raise

    async def died(self) -> str:
        if self._process is None:
            return "it was not started"
        return f"process {self._process.pid} ended with status {await self._process.wait()}"

    async def kill(self) -> None:
        if self._process is not None:
            await self._process.kill()

    async def stop(self) -> None:
        await self.kill()

    async def capabilities(self) -> Capabilities:
        device, machine = self._home.settings.engine.device, socket.gethostname()
        if device is Device.CUDA:
            gpu = gpu_of(self._home.number)
            free = await asyncio.to_thread(available_gpu_memory, gpu)
            return Capabilities(f"{machine}, GPU {gpu}", device, free, has_kernels=False)
        free = await asyncio.to_thread(available_memory)
        return Capabilities(machine, device, free, missing() is None)

    async def model_runs(self, version: ModelVersion) -> bool:
        return bool(await asyncio.to_thread(self.stub_pids, version))

    @asynccontextmanager
    async def watch_model(self, version: ModelVersion) -> AsyncIterator[asyncio.Event]:
        pids = await asyncio.to_thread(self.stub_pids, version)
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        with ExitStack() as stack:
            for pid in pids:
                with suppress(OSError):  # gone already, or a kernel without pidfd: the probe finds out
                    descriptor = os.pidfd_open(pid)
                    stack.callback(os.close, descriptor)
                    loop.add_reader(descriptor, ended.set)
                    stack.callback(loop.remove_reader, descriptor)
            yield ended

    async def end_model(self, version: ModelVersion) -> None:
        await asyncio.to_thread(self._kill_stubs, version)

    async def await_model_end(self, version: ModelVersion, seconds: float) -> None:
        await asyncio.to_thread(self._await_stubs, version, seconds)

    def cpu_seconds(self, version: ModelVersion) -> Mapping[int, float]:
        found = {}
        server = [] if self.pid is None else [self.pid]
        for pid in self.stub_pids(version) or server:
            with suppress(psutil.NoSuchProcess):
                times = psutil.Process(pid).cpu_times()
                found[pid] = times.user + times.system
        return found

    def stub_pids(self, version: ModelVersion) -> list[int]:
        """The processes that run this version. Blocking."""
        model, number = version
        script = self._home.relative(self._home.repository / model / str(number) / "model.py")
        pids: list[int] = []
        with suppress(psutil.NoSuchProcess):
            for child in [] if self.pid is None else psutil.Process(self.pid).children():
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    if child.cmdline()[1:2] == [script]:
                        pids.append(child.pid)
        return pids

    def _kill_stubs(self, version: ModelVersion) -> None:
        for pid in self.stub_pids(version):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _await_stubs(self, version: ModelVersion, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.stub_pids(version):
            if time.monotonic() > end:
                self._kill_stubs(version)
            time.sleep(POLL_SECONDS)
