"""An appliance for drills: its processes, its files, and the `lmaas` command for it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from bench.chaos.services import Postgres
from bench.drills.watch import PAUSE_SECONDS, Watch
from bench.facades import READY_SECONDS, ROOT, Facade, free_port
from perf.errors import LoadError


class Site:
    def __init__(
        self, home: Path, settings: Mapping[str, str] | None = None, postgres: Postgres | None = None
    ) -> None:
        self.home = home
        self.port = free_port()
        self.facade = Facade(home, self.port, settings or {})
        self.folder = home.with_name(f"{home.name}-files")  # what a drill makes
        self.folder.mkdir(exist_ok=True)
        self.watch = Watch(self.facade.url)  # of the drill that runs
        self._postgres = postgres
        self._facades = int((settings or {}).get("facades", 0))  # that have a port of their own
        self.client = httpx.AsyncClient(base_url=self.facade.url, trust_env=False, timeout=60.0)

    @property
    def postgres(self) -> Postgres:
        assert self._postgres is not None, "its records are in SQLite"
        return self._postgres

    async def start(self) -> float:
        """Returns the seconds until it was ready."""
        self.facade.start()
        return await self.ready()

    async def ready(self) -> float:
        """Returns the seconds until each façade was ready. Raises LoadError."""
        begin = time.monotonic()
        async with httpx.AsyncClient(trust_env=False) as client:
            await self.facade.wait_until_ready(client)
            for number in range(1, self._facades + 1):
                while not await _is_ready(client, self.port + number):
                    if time.monotonic() - begin > READY_SECONDS:
                        raise LoadError(f"facade-{number} was not ready within {READY_SECONDS:g} s")
                    await asyncio.sleep(PAUSE_SECONDS)
        return time.monotonic() - begin

    async def lmaas(self, *arguments: str, home: Path | None = None) -> tuple[int, str]:
        """The status of `lmaas`, and what it printed."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LMAAS_")}
        own = {"LMAAS_HOME": str(home or self.home), "LMAAS_URL": self.facade.url, "PYTHONPATH": str(ROOT)}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "lmaas", *arguments),
            cwd=ROOT,
            env={**kept, **own},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    async def succeed(self, *arguments: str) -> str:
        """What `lmaas` printed. Raises LoadError where it fails."""
        status, output = await self.lmaas(*arguments)
        if status:
            raise LoadError(f"lmaas {' '.join(arguments)}: {output.strip()[-500:]}")
        return output

    async def deployment(self, model: str, version: int) -> dict[str, Any]:
        """Raises LoadError where it is not deployed."""
        for item in (await self.client.get("/v1/deployments")).json()["data"]:
            if (item["model"], item["version"]) == (model, version):
                found: dict[str, Any] = item
                return found
        raise LoadError(f"{model}/{version} is not deployed")

    async def until_weight(self, model: str, version: int, weight: int) -> None:
        while True:
            if (await self.deployment(model, version))["traffic_weight"] == weight:
                return
            await asyncio.sleep(PAUSE_SECONDS)

    def stop(self) -> None:
        self.facade.stop()


async def _is_ready(client: httpx.AsyncClient, port: int) -> bool:
    with suppress(httpx.TransportError):
        return (await client.get(f"http://127.0.0.1:{port}/health/ready")).is_success
    return False


Drill = Callable[[Site], Awaitable[float | None]]  # the seconds, or None: the loops of `watch` find them
