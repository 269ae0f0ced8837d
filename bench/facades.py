"""Façades that a command starts, kills and starts again, as a service manager would."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from perf.errors import LoadError

READY_SECONDS = 180.0
ROOT = Path(__file__).resolve().parents[1]
MAX_LINE = 1000  # characters of the log in an error
STOP_SECONDS = 20.0
POLL_SECONDS = 0.1
PORTS = range(20_000, 32_000)


class Facade:
    """One `lmaas up` of the checkout `root`, with its Triton and the processes of its models."""

    def __init__(
        self, home: Path, port: int, settings: Mapping[str, str], root: Path = ROOT, module: str = "lmaas"
    ) -> None:
        """`module` is run with the argument `up`."""
        self.home = home
        self._root = root
        self._module = module
        self.url = f"http://127.0.0.1:{port}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LMAAS_")},
            **{f"LMAAS_{name.upper()}": value for name, value in settings.items()},
            "PYTHONPATH": str(root),
            "LMAAS_HOME": str(home),
            "LMAAS_PORT": str(port),
        }
        self._log = home.with_name(f"{home.name}.log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, "up"],
                cwd=self._root,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    @property
    def process(self) -> psutil.Process:
        assert self._process is not None, "it was not started"
        return psutil.Process(self._process.pid)

    def triton(self) -> psutil.Process:
        return self._below("tritonserver")

    def stub(self, model: str) -> psutil.Process:
        return self._below("triton_python", model)

    async def wait_until_ready(self, client: httpx.AsyncClient, seconds: float = READY_SECONDS) -> float:
        """Returns the seconds that it took. Raises LoadError after `seconds`, and where the process ended."""
        begin = time.monotonic()
        assert self._process is not None, "it was not started"
        while time.monotonic() - begin < seconds and self._process.poll() is None:
            with suppress(httpx.TransportError):
                if (await client.get(f"{self.url}/health/ready", timeout=5.0)).status_code == 200:
                    return time.monotonic() - begin
            await asyncio.sleep(POLL_SECONDS)
        lines = self._log.read_text("utf-8", "replace").splitlines() or [""]
        raise LoadError(
            f"the appliance of {self._root} was not ready within {seconds:g} s, or ended; its log ends:"
            f" {lines[-1][:MAX_LINE]}"
        )

    def kill(self) -> None:
        """`kill -9`, as a crash ends it."""
        self.process.send_signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def _below(self, name: str, argument: str = "") -> psutil.Process:
        """Raises LoadError where no such process runs at the moment."""
        for process in self.process.children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if process.name().startswith(name) and any(argument in part for part in process.cmdline()):
                    return process
        raise LoadError(f"no process {name} {argument} runs below {self.url}")


def free_port() -> int:
    """Of those that a system gives to no connection by itself. Raises LoadError where none is free."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise LoadError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free")
