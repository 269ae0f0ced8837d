"""A canary in a real Triton that is worse loses its traffic by itself; one that is as good keeps it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from api.back.backend import Backend
from api.back.cluster.triton_client import TritonClient
from api.back.store.records import CanaryPolicy, DeploymentRecord
from api.errors import ServerFault
from runtime.contract import Kind
from runtime.messages import Answer
from tests.api.back.cluster.requests import client, complete, language_model, undeploy_all, until

pytestmark = pytest.mark.anyio
SECONDS = 60.0
MIN_REQUESTS = 10
SLOWER = 20  # times as slow as it is on this machine at the moment
POLICY = CanaryPolicy(
    shadow=0.0, max_error_rate=0.2, max_latency_ratio=1000.0, max_disagreement=None, min_requests=MIN_REQUESTS
)


@pytest.fixture
async def stable(backend: Backend) -> AsyncIterator[DeploymentRecord]:
    """tiny/1, and at the end nothing."""
    yield await backend.cluster.deploy("tiny", 1, "fp32")
    await undeploy_all(backend)


async def tried(backend: Backend, weight: int = 100, **changes: Any) -> str:
    """The id of tiny/2, another model, as a canary."""
    policy = CanaryPolicy(**{name: getattr(POLICY, name) for name in POLICY.__slots__} | changes)
    return (await backend.cluster.deploy("tiny", 2, "fp32", traffic_weight=weight, canary=policy)).id


def record_of(backend: Backend, deployment_id: str) -> DeploymentRecord:
    return next(item for item in backend.cluster.deployments() if item.id == deployment_id)


async def until_rolled_back(backend: Backend, deployment_id: str, ask: Callable[[], Any]) -> DeploymentRecord:
    """Requests, one after the other, until the canary has no weight. Two callers at a time."""
    begin = time.monotonic()

    async def caller() -> None:
        while record_of(backend, deployment_id).canary is not None:
            assert time.monotonic() - begin < SECONDS, record_of(backend, deployment_id).figures
            await ask()

    await asyncio.gather(caller(), caller())
    found = record_of(backend, deployment_id)
    assert (found.traffic_weight, found.canary, found.figures) == (0, None, None)
    assert [event.kind for event in found.events] == ["rolled-back"]
    assert {language_model(backend).version for _ in range(5)} == {1}
    assert backend.cluster.rollbacks["tiny"] > 0
    print(f"rolled back after {found.events[0].figures['seconds']:.2f} s: {found.events[0].reason}")
    return found


async def test_a_model_that_answers_otherwise_is_rolled_back(
    backend: Backend, stable: DeploymentRecord
) -> None:
    """By its shadow share alone: no caller ever gets an answer of it."""
    canary = await tried(backend, weight=0, shadow=1.0, max_disagreement=0.5)
    expected = await complete(backend, language_model(backend, 1))
    answers: Counter[str] = Counter()

    async def ask() -> None:
        answers[await complete(backend, language_model(backend))] += 1

    found = await until_rolled_back(backend, canary, ask)
    assert set(answers) == {expected}
    assert "disagreement" in found.events[0].reason
    assert found.events[0].figures["compared"] == MIN_REQUESTS
    await until_stored(backend, found)


async def until_stored(backend: Backend, found: DeploymentRecord) -> None:
    begin = time.monotonic()
    while found not in await backend.deployments.list("tiny"):
        assert time.monotonic() - begin < SECONDS
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", ["errs", "is slow"])
async def test_a_server_that_is_worse_is_rolled_back(
    backend: Backend, stable: DeploymentRecord, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = await tried(backend, max_latency_ratio=5.0)
    real = TritonClient.generate

    async def worse(server: TritonClient, version: Any, **request: Any) -> AsyncGenerator[Answer, None]:
        is_canary = version == ("tiny", 2) and request["parameters"].get("caller") != "lmaas-probe"
        if is_canary and fault == "errs":
            raise ServerFault("the model server failed")
        begin = time.monotonic()
        async with aclosing(real(server, version, **request)) as answer:
            async for piece in answer:
                yield piece
        if is_canary:
            await asyncio.sleep(SLOWER * (time.monotonic() - begin))

    monkeypatch.setattr(TritonClient, "generate", worse)
    failures = 0

    async def ask() -> None:
        nonlocal failures
        try:
            await complete(backend, language_model(backend))
        except ServerFault:
            failures += 1

    found = await until_rolled_back(backend, canary, ask)
    expected = (
        "error rate 1, at most 0.2 above the 0" if fault == "errs" else "times the latency of the others"
    )
    assert expected in found.events[0].reason
    assert (failures > 0) == (fault == "errs")
    assert failures <= MIN_REQUESTS + 1


async def test_a_canary_that_is_as_good_keeps_its_traffic(backend: Backend, stable: DeploymentRecord) -> None:
    await backend.cluster.adjust(
        stable.id, canary=CanaryPolicy(1.0, 0.0, 1000.0, 0.0, MIN_REQUESTS), traffic_weight=50
    )
    head = await backend.cluster.deploy("head", 1, "fp32", canary=CanaryPolicy(1.0, 0.0, 1e3, 0.0, 1))
    await backend.cluster.deploy("tiny", 2, "fp32", traffic_weight=0)
    for _ in range(MIN_REQUESTS + 5):
        await complete(backend, language_model(backend))
        await backend.cluster.classify(backend.cluster.choose("head", None, Kind.CLASSIFIER), ["the cat"])
    found = record_of(backend, stable.id)
    assert (found.traffic_weight, found.events) == (50, ())
    assert found.figures is not None
    assert (found.figures.requests, found.figures.error_rate) == (MIN_REQUESTS + 5, 0.0)
    judged = record_of(backend, head.id).figures
    assert judged is not None
    assert (judged.requests, judged.requests_of_others, judged.compared) == (MIN_REQUESTS + 5, 0, 0)
    ended = await backend.cluster.adjust(stable.id, ends_canary=True)
    assert (ended.canary, ended.figures, ended.traffic_weight) == (None, None, 50)
    assert [item.canary for item in await backend.deployments.list("tiny")] == [None, None]


async def test_copies_and_callers_do_not_wait_for_each_other(
    backend: Backend, stable: DeploymentRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canary that hangs: callers are answered as before, and what has no room is dropped."""
    canary = await tried(backend, weight=0, shadow=1.0, max_disagreement=0.1)
    server, held = client(backend), asyncio.Event()
    real = server.generate

    async def hanging(version: Any, **request: Any) -> AsyncGenerator[Answer, None]:
        if request["parameters"].get("caller") == "lmaas-shadow":
            held.set()
            await asyncio.Event().wait()
        async with aclosing(real(version, **request)) as answer:
            async for piece in answer:
                yield piece

    monkeypatch.setattr(server, "generate", hanging)
    for _ in range(40):
        assert await complete(backend, language_model(backend))
    await asyncio.wait_for(held.wait(), SECONDS)
    await until(lambda: record_of(backend, canary).figures, "figures")
    figures = record_of(backend, canary).figures
    assert figures is not None
    assert (figures.requests, figures.requests_of_others) == (0, 40)
    assert figures.dropped >= 40 - 16 - 2
