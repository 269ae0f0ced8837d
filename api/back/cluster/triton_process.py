"""One tritonserver process with all that it starts: begun, awaited, ended, and never left behind.

It runs in the folder `BackSettings.triton`, and gets paths relative to that: Triton starts the process of a
Python model through a shell, which would interpret a space or a quote in the path of the home folder.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from asyncio.subprocess import Process
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import httpx
import psutil

from api.back.cluster.cleanup import (
    ENVIRONMENTS,
    POLL_SECONDS,
    kill_group,
    python_backends,
    remove_environments,
    remove_shared_memory,
)
from api.back.cluster.driver import START_SECONDS
from api.back.cluster.idle_timeout import IdleTimeout, wait_for
from api.back.cluster.installation import Installation
from api.back.cluster.server_home import HOST, Ports, ServerHome
from api.back.cluster.server_log import ServerLog
from api.back.cluster.triton_command import triton_command, triton_environment
from api.back.guard import SECRET, guarded
from api.errors import ServerFault

TAKEN = "already in use"  # Triton's words for a port that another program has
MAX_LOG_BYTES = 20 * 1024**2
LOG_TAIL_BYTES = 20_000


class PortTaken(ServerFault):
    """Another program has opened one of the ports since they were chosen."""


class TritonProcess:
    """A Triton that became ready; a client that has its `key` loads models through its gRPC port."""

    def __init__(self, process: Process, home: ServerHome, ports: Ports, key: str) -> None:
        self._process = process  # the guard, which leads the process group
        self.pid = process.pid  # of tritonserver, once it is ready
        self.ports = ports
        self.key = key
        self._home = home
        self._log: ServerLog | None = None

    @classmethod
    async def start(
        cls,
        home: ServerHome,
        installation: Installation,
        ports: Ports,
        seconds: float = START_SECONDS,
        key: str | None = None,
    ) -> TritonProcess:
        """Start it and wait, at most `seconds`, until it is ready to load models. Its key is `key`, or new.

        Raises ServerFault with the errors of its log, PortTaken among them.
        """
        key = key or secrets.token_hex(32)
        log = await asyncio.to_thread(_open_log, home.log)
        with log:
            begin = log.tell()
            process = await asyncio.create_subprocess_exec(
                *guarded(triton_command(home, installation, ports)),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=home.settings.triton,
                env={**triton_environment(home, installation), SECRET: key},
                start_new_session=True,
            )
        triton = cls(process, home, ports, key)
        triton._follow_log(begin)
        try:
            await triton._wait_ready(begin, seconds)
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

    async def kill(self) -> None:
        """End the server and every stub at once; return when all are gone.

        Nothing of value is lost: its state lies elsewhere. Triton would need a second to end by itself.
        """
        await asyncio.to_thread(kill_group, self._process.pid)
        await self._process.wait()
        if self._log is not None:
            await self._log.end()
        await asyncio.to_thread(remove_shared_memory, self._home.shared_memory_prefix)
        await asyncio.to_thread(lambda: remove_environments(ENVIRONMENTS, python_backends()))

    def _follow_log(self, begin: int) -> None:
        """Where lines are JSON objects, all of them go to the façade's log, those of its models too."""
        if self._home.settings.log_format == "json":
            self._log = ServerLog(self._home.log, self._home.name, begin)

    async def _wait_ready(self, begin: int, seconds: float) -> None:
        url = f"http://{HOST}:{self.ports.metrics}/metrics"  # the last port that Triton opens
        try:
            async with httpx.AsyncClient(verify=False, trust_env=False, timeout=1.0) as client:
                await wait_for(self._poll(client, url), IdleTimeout(seconds, seconds))
        except asyncio.TimeoutError:
            raise ServerFault(f"Triton was not ready within {seconds:g} s; {self._log_hint(begin)}") from None
        if not self.running:
            hint = self._log_hint(begin)
            fault = PortTaken if TAKEN in hint else ServerFault
            raise fault(f"Triton ended with status {self._process.returncode}; {hint}")

    async def _poll(self, client: httpx.AsyncClient, url: str) -> None:
        while self.running:
            with suppress(httpx.TransportError):
                if (await client.get(url)).is_success:
                    return
            await asyncio.sleep(POLL_SECONDS)

    def _log_hint(self, begin: int) -> str:
        """The errors in its log since `begin`, or its last lines."""
        with self._home.log.open("rb") as log:
            log.seek(begin)
            lines = log.read(LOG_TAIL_BYTES).decode(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith(("E1", "E0", "error", "Error", "F"))]
        return " | ".join((errors or lines)[-3:]) or "its log is empty"


def _only_child(guard: int) -> int:
    """Raises ServerFault where it has died meanwhile."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(guard).children():
            return int(child.pid)
    raise ServerFault("Triton died as soon as it was ready")


def _open_log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    log = path.open("ab")
    log.seek(0, os.SEEK_END)
    return log
