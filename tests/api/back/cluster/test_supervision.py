"""What keeps Triton and its models alive goes on, whatever goes wrong around it."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from api.back.cluster import controller, metrics, supervisor
from api.back.cluster.backoff import backoff_seconds
from api.back.cluster.controller import ReplicaController
from api.back.cluster.driver import Capabilities
from api.back.cluster.loading import ModelLoader
from api.back.cluster.pool import ServerPool
from api.back.cluster.probe import LoadProgress
from api.back.cluster.records import MemoryRecord, ServerState
from api.back.cluster.repository import ModelRepository
from api.back.cluster.resources import needed_memory
from api.back.cluster.supervisor import Supervisor
from api.back.cluster.triton_client import TritonClient
from api.back.settings import BackSettings
from api.back.store.records import DeploymentState
from api.errors import Conflict, ServerFault, Unavailable
from runtime.config import EngineSettings
from runtime.contract import Device
from tests.api.back.cluster.deployments import MIB, ScriptedDriver, deployed, manifest

pytestmark = pytest.mark.anyio


def test_pauses_double_up_to_a_limit() -> None:
    assert [backoff_seconds(times, 10.0) for times in (0, 1, 2, 3, 4, 5)] == [0, 1, 2, 4, 8, 10]


async def test_a_server_that_is_gone_takes_no_call() -> None:
    server = TritonClient("127.0.0.1:9", "key")
    await server.close()
    with pytest.raises(Unavailable, match="restarting"):
        await server.load("m", 1.0)
    with pytest.raises(Unavailable, match="restarting"):
        await server.unload("m", 1.0)
    assert not await server.live(1.0)


class Failing:
    """Fails twice, then waits for ever."""

    def __init__(self) -> None:
        self.times = 0
        self.third = asyncio.Event()

    async def __call__(self) -> None:
        self.times += 1
        if self.times < 3:
            raise OSError("no descriptors are left")
        self.third.set()
        await asyncio.Event().wait()


async def until_the_third(failing: Failing, work: Any) -> None:
    task = asyncio.create_task(work)
    await asyncio.wait_for(failing.third.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_supervisor_outlives_its_own_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.01)
    kept, failing = Supervisor(ScriptedDriver()), Failing()
    monkeypatch.setattr(kept, "_follow", failing)
    await until_the_third(failing, kept._keep())


async def test_a_controller_outlives_its_own_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "backoff_seconds", lambda times, longest: 0.01 * times)
    settings, failing = BackSettings(home=tmp_path), Failing()
    (replica,) = deployed("m").replicas
    controlling = ReplicaController(replica, settings, asyncio.Lock(), LoadProgress())
    monkeypatch.setattr(controlling, "_run", failing)
    await until_the_third(failing, controlling.run())
    assert replica.state is DeploymentState.FAILED
    assert replica.error == "its supervision failed; the log says how"


async def test_a_deployment_notes_that_tensorrt_fell_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = 'lmaas_engine_fallback_timestamp_seconds{model="m",reason="no plan",version="1"} 1.5e+09'

    async def nothing(*_: object) -> str:
        return said

    monkeypatch.setattr(metrics, "engine_lines", nothing)
    monkeypatch.setattr(ModelLoader, "bring_up", nothing)
    for plans, notes in (("", ""), ("/plans", "; tensorrt: fell back: no plan")):
        deployment = deployed("m", state=DeploymentState.LOADING)
        deployment.record = dataclasses.replace(deployment.record, note="it was forced")
        engine = EngineSettings(device=Device.CUDA, plans=plans)
        settings = BackSettings(home=tmp_path, engine=engine)
        controlling = ReplicaController(deployment.replicas[0], settings, asyncio.Lock(), LoadProgress())
        controlling.start()
        await asyncio.wait_for(deployment.replicas[0].settled.wait(), 5)
        await controlling.close()
        assert deployment.status.note == f"it was forced{notes}"


async def test_any_driver_is_kept_running() -> None:
    driver = ScriptedDriver()
    kept = Supervisor(driver)
    await kept.start()
    first = kept.client
    driver.failures.append(ServerFault("no port is free"))
    await driver.deaths.put("it was evicted")
    await asyncio.wait_for(first.gone.wait(), 5)
    with pytest.raises(Unavailable, match="restarting"):
        _ = kept.client
    second = await asyncio.wait_for(kept.running(), 10)  # after a start that failed, and a pause
    assert second is not first
    assert (driver.starts, driver.kills, kept.restarts, kept.state) == (3, 1, 2, ServerState.READY)
    await kept.stop()
    assert (second.gone.is_set(), kept.state) == (True, ServerState.DEAD)


class Stored(ScriptedDriver):
    """With a repository, which a start empties."""

    @property
    def repository(self) -> ModelRepository:
        return self.files

    def __init__(self, number: int, settings: BackSettings) -> None:
        super().__init__(number)
        self.files = ModelRepository(settings.home / self.name, settings, models=None)  # type: ignore[arg-type]
        self.free_memory: int | None = None

    async def capabilities(self) -> Capabilities:
        return Capabilities(f"machine of {self.name}", Device.CPU, self.free_memory, has_kernels=False)


async def test_a_server_that_does_not_start_keeps_no_other_from_serving(tmp_path: Path) -> None:
    settings = BackSettings(home=tmp_path)
    drivers = [Stored(0, settings), Stored(1, settings)]
    drivers[0].failures.append(ServerFault("no port is free"))
    pool = ServerPool(settings, drivers)
    await pool.start()
    late, well = pool.servers
    assert (late.up, late.state, late.error) == (False, ServerState.DEAD, "no port is free")
    assert (well.up, well.state, well.error) == (True, ServerState.READY, None)
    assert pool.places() == [well, late]
    await asyncio.wait_for(late.running(), 10)
    assert (late.state, late.error, drivers[0].starts) == (ServerState.READY, None, 2)
    await pool.close()


async def test_the_memory_of_a_replica_where_servers_have_different_amounts_free(tmp_path: Path) -> None:
    settings = BackSettings(home=tmp_path)
    drivers = [Stored(number, settings) for number in range(3)]
    drivers[0].free_memory, drivers[1].free_memory = MIB, 2 * MIB
    pool = ServerPool(settings, drivers)
    with pytest.raises(Unavailable, match="no model server"):
        await pool.memory(manifest())
    await pool.start()
    found = await pool.memory(manifest())
    bounds = settings.engine.num_slots, settings.engine.max_kv_tokens
    each = {
        variant: needed_memory(manifest(), variant, *bounds, has_kernels=False)
        for variant in manifest().variants
    }
    assert found == MemoryRecord(each, 2 * MIB)
    await pool.close()


async def test_where_no_server_starts_the_first_says_why(tmp_path: Path) -> None:
    settings = BackSettings(home=tmp_path)
    drivers = [Stored(0, settings), Stored(1, settings)]
    for driver in drivers:
        driver.failures.append(ServerFault(f"{driver.name} has no port"))
    pool = ServerPool(settings, drivers)
    with pytest.raises(ServerFault, match="triton-0 has no port"):
        await pool.start()
    await pool.close()
    assert [driver.starts for driver in drivers] == [1, 1]


async def test_replicas_are_placed_by_memory_then_by_load(tmp_path: Path) -> None:
    settings = BackSettings(home=tmp_path)
    drivers = [Stored(number, settings) for number in range(3)]
    pool = ServerPool(settings, drivers)
    await pool.start()
    small, second, third = pool.servers
    wanted = deployed("m", servers=[])
    assert await pool.admit(wanted, 1) == [small]
    drivers[0].free_memory = MIB
    assert await pool.admit(wanted, 2) == [second, third]
    with pytest.raises(Conflict, match="1 MiB are free"):
        await pool.admit(wanted, 3)
    for server in (second, third):
        pool.add_replica(deployed(f"on {server.name}", servers=[]), server)
    pool.replicas_on(second)[0].in_flight = 3
    assert await pool.admit(wanted, 1) == [third]
    pool.add_replica(deployed("another", servers=[]), third)
    assert await pool.admit(wanted, 1) == [second]
    second.draining = True
    assert await pool.admit(wanted, 1) == [third]
    await pool.close()
