"""Two real Tritons: replicas of one deployment share its requests, and one heals while the other answers."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import psutil
import pytest

from api.back.backend import Backend
from api.back.cluster.records import ServerState
from api.back.settings import BackSettings
from api.back.store.records import DeploymentRecord, DeploymentState
from api.errors import Conflict, InvalidInput, NotFound, Unavailable
from runtime.contract import Operation, Variant
from runtime.messages import Answer
from tests.api.back.cluster.requests import complete, language_model, outcome, stub_pids, until

pytestmark = pytest.mark.anyio
BOTH = {"triton-0": DeploymentState.READY, "triton-1": DeploymentState.READY}
NUM_CHOICES = 16  # four times the slots: such a request is under way for long
HEAL_SECONDS = 60.0


@pytest.fixture(scope="module")
async def pair(cluster_settings: BackSettings, anyio_backend: str) -> AsyncIterator[Backend]:
    async with Backend.open(dataclasses.replace(cluster_settings, servers=2)) as opened:
        yield opened


async def tiny(backend: Backend, version: int = 1, replicas: int = 2) -> DeploymentRecord:
    """The deployment of tiny/`version` with this number of replicas; it is made where there is none."""
    for record in backend.cluster.deployments():
        if record.version == version:
            return await backend.cluster.adjust(record.id, replicas=replicas)
    return await backend.cluster.deploy("tiny", version, "auto", replicas)


def outstanding(backend: Backend) -> list[int]:
    return [server.outstanding for server in backend.cluster.servers()]


def long_stream(backend: Backend) -> AsyncGenerator[Answer, None]:
    parameters = {"max_tokens": 90, "ignore_eos": True, "n": NUM_CHOICES, "temperature": 0.0}
    return backend.cluster.generate(
        language_model(backend, 1),
        prompt="the",
        parameters=parameters,
        operation=Operation.GENERATE,
        stream=True,
    )


@asynccontextmanager
async def long_streams(backend: Backend, count: int) -> AsyncIterator[list[AsyncGenerator[Answer, None]]]:
    """Streams that have not begun; none of them is left open for the next test."""
    async with AsyncExitStack() as opened:
        yield [await opened.enter_async_context(aclosing(long_stream(backend))) for _ in range(count)]


async def test_replicas_run_on_different_servers(pair: Backend, cluster_settings: BackSettings) -> None:
    record = await tiny(pair)
    assert (record.state, record.replicas, record.servers) == (DeploymentState.READY, 2, BOTH)
    first, second = pair.cluster.servers()
    assert first.models == second.models == ["tiny/1"]
    assert len({first.pid, second.pid, None}) == 3
    assert len({first.grpc_address, first.metrics_address, second.grpc_address, second.metrics_address}) == 4
    assert len(stub_pids(cluster_settings, "tiny", 1)) == 2
    metrics = await pair.cluster.engine_metrics()
    for name in BOTH:
        assert f'lmaas_engine_steps_total{{model="tiny",version="1",server="{name}"}}' in metrics
    assert metrics.count("# TYPE lmaas_engine_steps_total ") == 1


async def test_the_server_with_less_to_do_takes_the_next_request(pair: Backend) -> None:
    await tiny(pair)
    assert outstanding(pair) == [0, 0]
    async with long_streams(pair, 4) as streams:
        seen = []
        for stream in streams:
            await stream.__anext__()
            seen.append(sorted(outstanding(pair)))
    assert seen == [[0, 1], [1, 1], [1, 2], [2, 2]]
    assert outstanding(pair) == [0, 0]


async def test_a_deployment_grows_and_shrinks(pair: Backend, cluster_settings: BackSettings) -> None:
    record = await tiny(pair)
    expected = await complete(pair, language_model(pair, 1))
    with pytest.raises(
        InvalidInput, match="replicas: 3, but this cluster has 2 servers: 1 to 2 are possible"
    ):
        await pair.cluster.adjust(record.id, replicas=3)
    alone = await pair.cluster.adjust(record.id, replicas=1)
    assert (alone.replicas, list(alone.servers.values())) == (1, [DeploymentState.READY])
    assert len(stub_pids(cluster_settings, "tiny", 1)) == 1
    assert await complete(pair, language_model(pair, 1)) == expected
    (stored,) = await pair.deployments.list("tiny")
    assert stored.replicas == 1

    other = await tiny(pair, version=2, replicas=1)
    assert not set(other.servers) & set(alone.servers)  # on the server that held nothing
    await pair.cluster.undeploy(other.id)

    again = await pair.cluster.adjust(record.id, replicas=2)
    assert again.servers == BOTH
    assert {await complete(pair, language_model(pair, 1)) for _ in range(4)} == {expected}


async def test_one_server_heals_while_the_other_answers(
    pair: Backend, cluster_settings: BackSettings
) -> None:
    await tiny(pair)
    await until(lambda: pair.cluster.readiness().warnings == [], "both replicas")
    expected = await complete(pair, language_model(pair, 1))
    async with long_streams(pair, 1) as (stream,):
        await stream.__anext__()
        dead, well = sorted(pair.cluster.servers(), key=lambda server: -server.outstanding)
        assert (dead.outstanding, well.outstanding) == (1, 0)
        assert dead.pid is not None
        warning = asyncio.create_task(
            until(lambda: dead.name in str(pair.cluster.readiness().warnings), "a warning")
        )
        os.kill(dead.pid, signal.SIGKILL)
        # A part of it is here: it is not sent again. On a busy machine it may have been done already.
        assert await outcome(stream) in (Unavailable, NUM_CHOICES)
        with pytest.raises(StopAsyncIteration):  # the outcome is the last of it
            await stream.__anext__()
    for _ in range(10):
        assert await complete(pair, language_model(pair, 1)) == expected
    await warning

    def healed() -> bool:
        found = pair.cluster.readiness()
        assert (found.ready, found.reasons) == (True, [])
        return found.warnings == []

    await until(healed, "healed", HEAL_SECONDS)
    back, same = sorted(pair.cluster.servers(), key=lambda server: server.name != dead.name)
    assert (back.state, back.restarts, same.restarts) == (ServerState.READY, 1, 0)
    assert (back.pid != dead.pid, same.pid) == (True, well.pid)
    assert {await complete(pair, language_model(pair, 1)) for _ in range(4)} == {expected}
    assert len(stub_pids(cluster_settings, "tiny", 1)) == 2


async def test_what_had_no_answer_yet_is_sent_again(pair: Backend) -> None:
    await tiny(pair)
    await until(lambda: pair.cluster.readiness().warnings == [], "both replicas")
    asked = {"max_tokens": 90, "n": NUM_CHOICES}
    expected = await complete(pair, language_model(pair, 1), stream=False, **asked)
    victim = pair.cluster.servers()[1].pid
    assert victim is not None
    for stub in psutil.Process(victim).children():
        stub.suspend()  # else it might answer before it is killed
    try:
        waiting = [
            asyncio.create_task(complete(pair, language_model(pair, 1), stream=False, **asked))
            for _ in range(8)
        ]
        await until(lambda: outstanding(pair)[1] == 4, "half of the requests there")
    finally:
        os.kill(victim, signal.SIGKILL)
    assert {await task for task in waiting} == {expected}
    await until(lambda: pair.cluster.readiness().warnings == [], "healed", HEAL_SECONDS)


@pytest.fixture
async def undrained(pair: Backend) -> AsyncIterator[Backend]:
    """Whose servers take replicas again afterwards."""
    yield pair
    for name in BOTH:
        pair.cluster.drain_server(name, False)


async def test_a_server_that_drains_takes_what_no_other_can(undrained: Backend) -> None:
    pair = undrained
    await tiny(pair)
    drained = pair.cluster.drain_server("triton-0", True)
    assert (drained.state, drained.models) == (ServerState.DRAINING, ["tiny/1"])
    async with long_streams(pair, 2) as streams:
        for stream in streams:
            await stream.__anext__()
        assert outstanding(pair) == [0, 2]
    with pytest.raises(Conflict, match="tiny/2 needs 2 more, 1 of 2 can take it"):
        await tiny(pair, version=2, replicas=2)
    other = await tiny(pair, version=2, replicas=1)
    assert list(other.servers) == ["triton-1"]
    await pair.cluster.undeploy(other.id)
    pair.cluster.drain_server("triton-1", True)
    assert await complete(pair, language_model(pair, 1))  # all drain: it is answered all the same
    for name in BOTH:
        assert pair.cluster.drain_server(name, False).state is ServerState.READY
    with pytest.raises(NotFound, match="'triton-9'"):
        pair.cluster.drain_server("triton-9", True)


async def test_another_precision_is_loaded_where_the_version_is_not(
    pair: Backend, cluster_settings: BackSettings
) -> None:
    record = await tiny(pair, replicas=2)
    with pytest.raises(
        Conflict, match=r"tiny/1 in fp32 does not fit beside tiny/1 in int8.*needs 2 more, 0 of 2 can"
    ):
        await pair.cluster.replace(record.id, precision="fp32")
    before = await pair.cluster.adjust(record.id, replicas=1)
    assert before.variant is Variant.INT8
    after = await pair.cluster.replace(record.id, precision="fp32")
    assert (after.id, after.version, after.variant) == (record.id, 1, Variant.FP32)
    assert not set(after.servers) & set(before.servers)
    assert (after.rollout is not None, language_model(pair, 1).precision) == (True, Variant.FP32)
    assert await complete(pair, language_model(pair, 1))
    await until(lambda: pair.cluster.deployments()[0].rollout is None, "the end of the old one")
    await until(lambda: len(stub_pids(cluster_settings, "tiny", 1)) == 1, "its process gone")
    await pair.cluster.undeploy(record.id)


async def test_a_start_brings_back_as_many_replicas_as_there_are_servers(
    converted_home: Path, cluster_settings: BackSettings, tmp_path: Path
) -> None:
    shutil.copytree(converted_home, tmp_path / "home")
    one = dataclasses.replace(cluster_settings, home=tmp_path / "home")
    two = dataclasses.replace(one, servers=2)
    async with Backend.open(two) as opened:
        await tiny(opened)
    for settings, servers in ((two, BOTH), (one, {"triton-0": DeploymentState.READY})):
        async with Backend.open(settings) as opened:
            await until(lambda: opened.cluster.readiness().ready, "ready")
            await until(lambda: opened.cluster.deployments()[0].servers == servers, "every replica")  # noqa: B023
            warnings = opened.cluster.readiness().warnings
        assert warnings == ([] if settings is two else ["tiny/1 has 1 of 2 replicas: servers are missing"])
