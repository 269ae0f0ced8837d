"""Replicas that follow the load: the loop over scripted servers, and a deployment on two real Tritons."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from api.back.backend import Backend
from api.back.cluster import following, scaling
from api.back.cluster.deployment import Deployment
from api.back.cluster.scaling import ScalingLoop
from api.back.settings import BackSettings
from api.back.store.records import Autoscale, Capacity, DeploymentRecord, DeploymentState
from api.errors import Conflict, Unavailable
from runtime.config import EngineSettings
from tests.api.back.cluster.deployments import deployed, server
from tests.api.back.cluster.requests import complete, language_model, until

pytestmark = pytest.mark.anyio
MEASURED = Capacity(10.0, None, 0.1, 0.2, "2026-11-29T12:00:00Z", "lmaas perf capacity tiny", 2)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "DECISION_SECONDS", 0.1)
    monkeypatch.setattr(scaling, "WAKE_SECONDS", 0.02)


class Bench:
    """A loop over one deployment on scripted servers, that records what it would scale to."""

    def __init__(self, settings: BackSettings, autoscale: Autoscale | None, replicas: int = 1) -> None:
        self.servers = [server(number) for number in range(4)]
        self.deployment = deployed("tiny", servers=self.servers[:replicas])
        self._change(autoscale=autoscale, capacity=MEASURED)
        self.asked: list[int] = []
        self.error: Exception | None = None
        self.loop = ScalingLoop(settings, self.servers, lambda: [self.deployment], self._scale)

    def _change(self, **changes: Any) -> None:
        self.deployment.record = dataclasses.replace(self.deployment.record, **changes)

    async def _scale(self, deployment: Deployment, replicas: int) -> None:
        self.asked.append(replicas)
        if self.error is not None:
            raise self.error
        self._change(replicas=replicas)
        if not replicas:
            deployment.replicas.clear()

    async def load(self, requests: int) -> None:
        """More requests than the replicas finish, until it is cancelled."""
        while True:
            self.deployment.traffic.started += requests
            await asyncio.sleep(0.05)


@pytest.fixture
def settings(tmp_path: Any) -> BackSettings:
    return BackSettings(home=tmp_path, autoscale_stabilisation_seconds=0.3)


async def test_a_deployment_gets_the_replicas_that_its_load_needs(settings: BackSettings) -> None:
    bench = Bench(settings, Autoscale(1, 3))
    load = asyncio.create_task(bench.load(100))
    bench.loop.start()
    await until(lambda: bench.asked == [3], "three replicas")
    load.cancel()
    (found,) = bench.loop.records()
    assert found.capacity == 5.0, "10 requests/s were measured on two replicas"
    assert (found.possible, found.replicas) == (4, 1)
    assert found.missing == found.wanted - 1
    assert "the maximum is 3" in found.reason
    await until(lambda: bench.asked[-1] == 1, "one replica again")  # nothing comes any longer
    await bench.loop.close()


async def test_a_capacity_that_was_just_measured_is_reported_at_once(settings: BackSettings) -> None:
    bench = Bench(settings, None)
    (before,) = bench.loop.records()
    bench._change(capacity=dataclasses.replace(MEASURED, requests_per_second=40.0))
    (after,) = bench.loop.records()
    assert (before.capacity, after.capacity) == (5.0, 20.0)


async def test_nothing_is_scaled_without_bounds(settings: BackSettings) -> None:
    bench = Bench(settings, None)
    load = asyncio.create_task(bench.load(100))
    bench.loop.start()
    await until(lambda: bench.loop.records()[0].wanted >= 3, "three wanted")
    load.cancel()
    await bench.loop.close()
    assert bench.asked == []


async def test_facades_that_share_tritons_want_what_all_their_requests_need(settings: BackSettings) -> None:
    one, two = Bench(settings, None), Bench(settings, None)
    for each in two.servers:
        each.driver.shared = True  # type: ignore[misc]
    one.loop.facades = two.loop.facades = 4
    for bench in (one, two):
        bench.loop.records()
        bench.deployment.traffic.started += 4
        bench.deployment.replicas[0].in_flight = 40
        bench.loop._act(bench.loop._watch(bench.deployment), time.monotonic() + 1)
    (alone,), (shared,) = one.loop.records(), two.loop.records()
    assert shared.arrival_rate == pytest.approx(4 * alone.arrival_rate, rel=0.1)
    assert alone.arrival_rate > 0
    assert (alone.waiting, shared.waiting) == (
        40 - settings.engine.num_slots,
        160 - settings.engine.num_slots,
    )
    assert shared.wanted > alone.wanted


async def test_a_change_that_fails_is_explained_and_not_tried_again_at_once(
    settings: BackSettings,
) -> None:
    bench = Bench(settings, Autoscale(1, 4))
    bench.error = Conflict("500 MiB of memory are needed, 20 MiB are free")
    load = asyncio.create_task(bench.load(100))
    bench.loop.start()
    await until(
        lambda: "the latest change failed: 500 MiB of memory" in bench.loop.records()[0].reason, "the reason"
    )
    decisions = bench.loop.records()[0].arrival_rate
    await until(lambda: bench.loop.records()[0].arrival_rate != decisions, "another decision")
    assert len(bench.asked) == 1
    bench.error = None
    await until(lambda: len(bench.asked) == 2, "the next try, after a second", 20.0)
    load.cancel()
    await bench.loop.close()
    watched = bench.loop._watch(bench.deployment)
    watched.failed("no memory")
    first = watched.not_before
    for _ in range(9):
        watched.failed("no memory")
    assert 58 < watched.not_before - first < 62, "each pause is longer, up to a minute"


async def test_a_request_wakes_a_deployment_without_replicas(settings: BackSettings) -> None:
    bench = Bench(settings, Autoscale(0, 2))
    bench.loop.start()
    await until(lambda: bench.asked == [0], "no replica")
    assert bench.deployment.state is DeploymentState.IDLE
    with pytest.raises(Unavailable, match="tiny/1 is idle: a replica is being loaded"):
        bench.deployment.require_ready()
    await until(lambda: bench.asked == [0, 1], "one replica")
    await bench.loop.close()


async def test_a_request_that_comes_while_the_last_replica_is_unloaded_wakes_it(
    settings: BackSettings,
) -> None:
    bench = Bench(settings, Autoscale(0, 2))
    unloaded = asyncio.Event()

    async def scale(deployment: Deployment, replicas: int) -> None:
        bench.asked.append(replicas)
        bench._change(replicas=replicas)
        if not replicas:
            deployment.replicas[0].become(DeploymentState.UNLOADING)
            await unloaded.wait()
            deployment.replicas.clear()

    bench.loop = ScalingLoop(settings, bench.servers, lambda: [bench.deployment], scale)
    bench.loop.start()
    await until(lambda: bench.asked == [0], "no replica")
    with pytest.raises(Unavailable, match="tiny/1 is idle: a replica is being loaded"):
        bench.deployment.require_ready()
    watched = bench.loop._watch(bench.deployment)
    await until(lambda: watched._scaler._is_silent(watched._scaler._last), "silence again")  # type: ignore[arg-type]
    unloaded.set()
    await until(lambda: bench.asked == [0, 1], "one replica")
    await bench.loop.close()


async def test_replicas_that_follow_the_load_are_no_change_for_other_facades(settings: BackSettings) -> None:
    bench = Bench(settings, Autoscale(1, 3), replicas=3)
    recorded = dataclasses.replace(bench.deployment.record, replicas=1)
    present = {recorded.id: bench.deployment}
    assert following.compare([recorded], present, present).adjusted == []
    by_hand = dataclasses.replace(recorded, autoscale=None)
    assert following.compare([by_hand], present, present).adjusted == [(bench.deployment, by_hand)]


@pytest.fixture
async def pair(cluster_settings: BackSettings, anyio_backend: str) -> AsyncIterator[Backend]:
    settings = dataclasses.replace(
        cluster_settings,
        servers=2,
        engine=EngineSettings(num_slots=4, threads=1),
    )
    async with Backend.open(settings) as opened:
        yield opened


async def test_real_replicas_follow_the_load_to_two_to_none_and_back_to_one(
    pair: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "usable_cores", lambda: 2)
    cluster = pair.cluster
    reports: list[tuple[str, str, str]] = []

    async def report(actor: str, action: str, record: DeploymentRecord, outcome: str) -> None:
        reports.append((actor, action, outcome))

    cluster.observers.append(report)
    record = await cluster.deploy("tiny", 1, "auto", autoscale=Autoscale(0, 2))

    def present() -> tuple[DeploymentState, int]:
        (found,) = cluster.deployments()
        return found.state, list(found.servers.values()).count(DeploymentState.READY)

    async def ask() -> None:
        while True:
            with suppress(Unavailable):
                await complete(pair, language_model(pair, 1), max_tokens=90, n=4)
            await asyncio.sleep(0.01)

    crowd = [asyncio.create_task(ask()) for _ in range(12)]
    await until(lambda: present() == (DeploymentState.READY, 2), "two replicas")
    loop = cluster._scaling  # from now on a second without requests is enough
    loop._settings = dataclasses.replace(loop._settings, autoscale_stabilisation_seconds=1.0)
    for one in crowd:
        one.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    await until(lambda: present() == (DeploymentState.IDLE, 0), "no replica")
    loop._settings = pair.cluster._settings  # what comes back stays, however long the next steps take
    assert cluster.readiness().ready, "nothing is wrong with it"
    with pytest.raises(Unavailable, match="is idle"):
        language_model(pair, 1)
    await until(lambda: present() == (DeploymentState.READY, 1), "one replica")
    assert await complete(pair, language_model(pair, 1))
    (recorded,) = await pair.deployments.list()
    assert recorded.replicas == 1, "as it was asked for: another facade has its own load"
    await cluster.adjust(record.id, replicas=1)  # by hand: from now on nothing scales it
    assert cluster.deployments()[0].autoscale is None
    assert {report[:2] for report in reports} == {("autoscaler", "scale")}
    outcomes = [outcome for *_, outcome in reports]
    assert outcomes[0] == "2"
    assert "0" in outcomes[1:]
    assert present() == (DeploymentState.READY, 1)
