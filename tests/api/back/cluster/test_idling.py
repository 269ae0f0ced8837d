"""Deployments that give their memory back: the rules over scripted servers, and one on a real Triton."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import pytest

from api.back.backend import Backend
from api.back.cluster import following, idling, router
from api.back.cluster.deployment import Deployment
from api.back.cluster.idling import Idling
from api.back.cluster.inference import remaining
from api.back.cluster.pool import ServerPool
from api.back.cluster.supervisor import Supervisor
from api.back.settings import BackSettings
from api.back.store.records import DeploymentState
from api.errors import Conflict, Unavailable
from tests.api.back.cluster.deployments import deployed, server
from tests.api.back.cluster.requests import complete, language_model, stub_pids, until

pytestmark = pytest.mark.anyio
SECONDS = 60.0


class Pool(ServerPool):
    """Loads what a test lets it load."""

    def __init__(self, settings: BackSettings) -> None:
        super().__init__(settings, [])
        self.loads = 0
        self.error: Exception | None = None
        self.loaded = asyncio.Event()

    async def admit(self, deployment: Deployment, count: int, *, least: int = 1) -> list[Supervisor]:
        if self.error is not None:
            raise self.error
        return [server(number) for number in range(count)]

    async def place(self, deployment: Deployment, servers: Sequence[Supervisor]) -> None:
        self.loads += 1
        await self.loaded.wait()
        deployment.replicas += deployed("a", servers=servers).replicas


class Bench:
    """An idle deployment, and what loads it."""

    def __init__(self, settings: BackSettings) -> None:
        self.pool = Pool(settings)
        self.deployment = deployed("a", servers=[server(0), server(1)])
        self.idling = Idling(self.pool, {self.deployment.record.id: self.deployment}, SECONDS)

    def make_idle(self) -> None:
        self.deployment.become_idle()
        self.deployment.replicas.clear()

    def unused_after(self, seconds: float) -> bool:
        """Whether it is unused that long after the first look, where nothing happened since."""
        self.idling._is_unused(self.deployment, 1000.0)
        return self.idling._is_unused(self.deployment, 1000.0 + seconds)


@pytest.fixture
def bench(settings: BackSettings) -> Bench:
    return Bench(settings)


async def test_silence_makes_it_unused_and_a_request_does_not(bench: Bench) -> None:
    assert not bench.unused_after(SECONDS - 1)
    assert bench.unused_after(SECONDS)
    bench.deployment.traffic.started += 1
    assert not bench.idling._is_unused(bench.deployment, 1000.0 + 2 * SECONDS)


async def test_what_runs_or_changes_is_used(bench: Bench) -> None:
    (replica, _) = bench.deployment.replicas
    replica.in_flight = 1
    assert not bench.unused_after(SECONDS)
    replica.in_flight = 0
    async with bench.deployment.scaling:
        assert not bench.unused_after(SECONDS)
    bench.deployment.successor = bench.deployment
    assert not bench.unused_after(SECONDS)


async def test_an_idle_deployment_takes_requests_and_nothing_waits_for_it(bench: Bench) -> None:
    deployment = bench.deployment
    deployment.expected = True
    deployment.replicas[0].load_seconds, deployment.replicas[1].load_seconds = 0.5, 7.0
    bench.make_idle()
    assert (deployment.state, deployment.serves, deployment.expected) == (DeploymentState.IDLE, True, False)
    assert deployment.load_seconds == 7.0
    assert deployment.record.replicas == 2
    deployment.leave()
    assert not deployment.serves


async def test_one_load_serves_all_that_wait(bench: Bench) -> None:
    bench.make_idle()
    waiting = [asyncio.create_task(bench.idling.end(bench.deployment)) for _ in range(5)]
    await asyncio.sleep(0)
    bench.pool.loaded.set()
    assert all(seconds > 0 for seconds in await asyncio.gather(*waiting))
    assert bench.pool.loads == 1
    assert not bench.deployment.idle
    assert bench.deployment.expected
    assert len(bench.deployment.replicas) == 2
    assert await bench.idling.end(bench.deployment) == 0.0


async def test_a_wait_is_bounded_and_the_load_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idling, "LEAST_WAIT_SECONDS", 0.01)
    bench.make_idle()
    bench.deployment.load_seconds = 0.001
    for _ in range(2):
        with pytest.raises(Unavailable, match="a/1 was idle, and is being loaded"):
            await bench.idling.end(bench.deployment)
    bench.pool.loaded.set()
    await until(lambda: not bench.deployment.idle, "the load of the first request")
    assert bench.pool.loads == 1


async def test_a_load_that_is_not_possible_is_explained_and_tried_again(bench: Bench) -> None:
    bench.make_idle()
    bench.pool.error = Conflict("900 MiB of memory are needed, 20 MiB are free")
    with pytest.raises(Unavailable, match="a/1 is idle, and cannot be loaded: 900 MiB of memory"):
        await bench.idling.end(bench.deployment)
    assert bench.deployment.idle
    bench.pool.error = None
    bench.pool.loaded.set()
    assert await bench.idling.end(bench.deployment) > 0


async def test_an_undeployed_one_is_not_loaded(bench: Bench) -> None:
    bench.make_idle()
    bench.idling._deployments = {}
    with pytest.raises(Unavailable, match="undeployed or replaced"):
        await bench.idling.end(bench.deployment)


async def test_an_idle_deployment_keeps_its_share_of_the_traffic() -> None:
    busy, idle = deployed("a", 1, weight=75), deployed("a", 2, weight=25)
    idle.become_idle()
    chosen = [router.choose_of_model([busy, idle], "a") for _ in range(8)]
    assert chosen.count(idle) == 2


async def test_other_facades_take_an_idle_deployment_over() -> None:
    record = dataclasses.replace(deployed("a").record, state=DeploymentState.IDLE)
    assert following.compare([record], {}, []).new == [record]


def test_the_wait_is_taken_off_the_deadline() -> None:
    given = {"top_k": 3, "deadline_ms": 5000}
    assert remaining(given, 0.0) is given
    assert remaining(given, 1.5) == {"top_k": 3, "deadline_ms": 3500}
    assert remaining(given, 9.0)["deadline_ms"] == 1
    assert remaining({"top_k": 3}, 9.0) == {"top_k": 3}


async def test_a_real_model_leaves_its_memory_and_comes_back(
    backend: Backend, cluster_settings: BackSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idling, "LOOK_SECONDS", 0.05)
    cluster = backend.cluster
    record = await cluster.deploy("tiny", 1, "auto")
    text = await complete(backend, language_model(backend))

    def state() -> DeploymentState:
        return cluster.deployments()[0].state

    async def idle(seconds: float) -> None:
        cluster._idling._seconds = seconds
        cluster._idling.start()
        await until(lambda: state() is DeploymentState.IDLE, "idle")
        cluster._idling._seconds = 3600.0
        await until(lambda: not stub_pids(cluster_settings, "tiny", 1), "no process")

    await idle(1.2 * cluster_settings.probe_interval_seconds)  # a probe is no request
    assert cluster.readiness().ready
    assert cluster.capacity()[0].wanted == 0
    target = language_model(backend)
    assert await asyncio.gather(*(complete(backend, target) for _ in range(4))) == [text] * 4
    assert len(stub_pids(cluster_settings, "tiny", 1)) == 1
    assert state() is DeploymentState.READY
    await idle(0.1)
    replaced = await cluster.replace(record.id, version=2)
    assert (replaced.version, replaced.state) == (2, DeploymentState.READY)
    assert await complete(backend, language_model(backend)) != text
