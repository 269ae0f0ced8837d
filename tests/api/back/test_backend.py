"""Opening and closing the whole back layer, and what a killed one leaves."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from api.back.backend import Backend
from api.back.cluster.server_home import SHARED_MEMORY, shared_memory_prefix
from api.back.settings import BackSettings
from api.errors import ServerFault
from tests.api.back.cluster.requests import complete, deploy_all, language_model, processes, until

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[3]
FACADE = """
import asyncio, pathlib, sys
from api.back.backend import Backend
from api.back.settings import BackSettings

async def main():
    async with Backend.open(BackSettings(home=pathlib.Path(sys.argv[1]))) as backend:
        while not backend.cluster.readiness().ready:
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def shared_memory(settings: BackSettings) -> list[Path]:
    return list(SHARED_MEMORY.glob(f"{shared_memory_prefix(settings)}*"))


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
async def deployed(cluster_settings: BackSettings, anyio_backend: str) -> tuple[BackSettings, str]:
    """A home whose database says that three versions are deployed, and what tiny/1 answers."""
    async with Backend.open(cluster_settings) as backend:
        await deploy_all(backend)
        expected = await complete(backend, language_model(backend, 1))
    assert processes(cluster_settings) == []
    return cluster_settings, expected


async def test_a_second_start_brings_the_deployments_back(deployed: tuple[BackSettings, str]) -> None:
    settings, expected = deployed
    async with Backend.open(settings) as backend:
        assert len(backend.cluster.deployments()) == 3
        await until(lambda: backend.cluster.readiness().ready, "ready", 60)
        assert await complete(backend, language_model(backend, 1)) == expected
    assert processes(settings) == []


@asynccontextmanager
async def facade_over(settings: BackSettings) -> AsyncIterator[asyncio.subprocess.Process]:
    """A façade in another process, ready; it is killed at the end, if not before."""
    facade = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FACADE, str(settings.home), stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert facade.stdout is not None
        assert await facade.stdout.readline() == b"ready\n"
        yield facade
    finally:
        if facade.returncode is None:
            facade.kill()
            await facade.communicate()


async def test_a_killed_facade_takes_triton_along(deployed: tuple[BackSettings, str]) -> None:
    settings, _ = deployed
    async with facade_over(settings) as facade:
        # The guard, Triton and its stubs; one that was loaded in two steps may have had a predecessor.
        await until(lambda: len(processes(settings)) == 1 + 1 + 3, "the processes")
        left = processes(settings)
        with pytest.raises(ServerFault, match=f"in use by process {facade.pid}"):
            async with Backend.open(settings):
                pass
        facade.kill()
        await facade.communicate()
    await until(lambda: not any(map(alive, left)), "the end of all", 60)


async def test_a_start_ends_what_was_left_behind(deployed: tuple[BackSettings, str]) -> None:
    settings, _ = deployed
    async with facade_over(settings):
        await until(lambda: len(processes(settings)) == 1 + 1 + 3, "the processes")
        left = processes(settings)
        guard = next(process for process in left if "guard.py" in " ".join(process.cmdline()))
        guard.suspend()  # it cannot kill the group then
    assert all(map(alive, left))
    async with Backend.open(settings) as backend:
        assert not any(map(alive, left))
        await until(lambda: backend.cluster.readiness().ready, "ready")
    assert processes(settings) == []
    assert shared_memory(settings) == []


async def test_a_start_ends_what_was_half_undeployed(deployed: tuple[BackSettings, str]) -> None:
    settings, _ = deployed
    with sqlite3.connect(settings.home / "lmaas.db") as database:
        (row,) = database.execute("SELECT * FROM deployments WHERE model = 'head'").fetchall()
        database.execute("UPDATE deployments SET state = 'unloading' WHERE model = 'head'")
    async with Backend.open(settings) as backend:
        assert {record.model for record in backend.cluster.deployments()} == {"tiny"}
        assert await backend.deployments.list("head") == []
    with database:  # for the other tests
        database.execute(f"INSERT INTO deployments VALUES ({', '.join('?' * len(row))})", row)
    database.close()


async def test_what_the_machine_lacks_stops_the_start(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = BackSettings(home=tmp_path / "home", triton_grpc_port=port)
        with pytest.raises(ServerFault, match=f"port {port} is taken"):
            async with Backend.open(settings):
                pass
