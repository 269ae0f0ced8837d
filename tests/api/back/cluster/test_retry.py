"""When a request is sent again, and when it is not."""

from __future__ import annotations

import asyncio
import time
from unittest.mock import patch

import pytest

from api.back.cluster import inference
from api.back.cluster.deployment import Deployment
from api.back.cluster.inference import Tries
from api.back.store.records import DeploymentState
from api.errors import Unavailable
from tests.api.back.cluster.deployments import deployed, server

pytestmark = pytest.mark.anyio
DIED = Unavailable("the model server died")
WAIT_SECONDS = 30.0


@pytest.fixture
def pair() -> Deployment:
    return deployed("a", servers=[server(0), server(1)])


def fail(tries: Tries) -> str:
    """A try that its server does not survive; returns the server's name."""
    replica = tries.replica()
    with pytest.raises(Unavailable), replica.serving():
        raise DIED
    return replica.server.name


async def test_another_replica_is_tried_at_once(pair: Deployment) -> None:
    tries = Tries(pair, WAIT_SECONDS)
    first = fail(tries)
    await tries.after(DIED)
    assert tries.replica().server.name != first


async def test_a_request_that_kills_each_server_has_three_tries(pair: Deployment) -> None:
    tries = Tries(pair, WAIT_SECONDS)
    for _ in range(inference.MAX_TRIES - 1):
        fail(tries)
        for replica in pair.replicas:
            replica.trust()
        await tries.after(DIED)
    fail(tries)
    with pytest.raises(Unavailable) as raised:
        await tries.after(DIED)
    assert raised.value is DIED


async def test_a_replica_that_is_unloaded_is_not_waited_for() -> None:
    alone = deployed("a")
    tries = Tries(alone, WAIT_SECONDS)
    fail(tries)
    alone.replicas[0].become(DeploymentState.UNLOADING)
    begin = time.monotonic()
    with pytest.raises(Unavailable):
        await tries.after(DIED)
    assert time.monotonic() - begin < WAIT_SECONDS / 2


@pytest.mark.parametrize("healing", [DeploymentState.UNHEALTHY, DeploymentState.LOADING])
async def test_the_only_replica_is_waited_for(healing: DeploymentState) -> None:
    alone = deployed("a")
    (replica,) = alone.replicas
    tries = Tries(alone, WAIT_SECONDS)
    fail(tries)
    waiting = asyncio.create_task(tries.after(DIED))
    for state in (healing, DeploymentState.READY):
        await asyncio.sleep(0)
        assert not waiting.done()
        replica.become(state)
    await asyncio.sleep(0)
    assert not waiting.done()  # it loaded, but no probe was good since
    replica.trust()
    await asyncio.wait_for(waiting, WAIT_SECONDS)
    assert tries.replica() is replica


async def test_what_is_undeployed_is_not_waited_for() -> None:
    alone = deployed("a")
    tries = Tries(alone, WAIT_SECONDS)
    fail(tries)
    waiting = asyncio.create_task(tries.after(DIED))
    await asyncio.sleep(0)
    alone.leave()
    with pytest.raises(Unavailable, match="died"):
        await asyncio.wait_for(waiting, WAIT_SECONDS)


@pytest.mark.parametrize(("wait", "deadline_ms"), [(0.0, None), (WAIT_SECONDS, 1), (0.05, 60_000)])
async def test_the_wait_ends_with_the_limit_or_the_deadline(wait: float, deadline_ms: int | None) -> None:
    tries = Tries(deployed("a"), wait, {} if deadline_ms is None else {"deadline_ms": deadline_ms})
    fail(tries)
    begin = time.monotonic()
    with pytest.raises(Unavailable, match="died"):
        await tries.after(DIED)
    assert time.monotonic() - begin < WAIT_SECONDS / 2


def test_a_later_try_has_the_time_that_is_left(pair: Deployment) -> None:
    given = {"top_k": 3, "deadline_ms": 5000}
    with patch("time.monotonic", side_effect=[100.0, 101.5, 200.0]):
        tries = Tries(pair, WAIT_SECONDS, given)
        tries.replica()
        assert tries.parameters == given
        tries.replica()
        assert tries.parameters == {"top_k": 3, "deadline_ms": 3500}
        assert tries.parameters["deadline_ms"] == 1  # the engine ends it, and says so
