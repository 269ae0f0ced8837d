"""A rolling replacement in a real Triton: no request fails, whether the new version loads or not."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import pytest

from api.back.backend import Backend
from api.back.cluster import local_triton, rollout
from api.back.settings import BackSettings
from api.back.store.records import DeploymentRecord, DeploymentState, Rollout
from api.errors import Conflict, NotFound, ServerFault, Unavailable
from runtime.contract import Kind, Variant
from tests.api.back.cluster.requests import complete, language_model, stub_pids, undeploy_all, until

pytestmark = pytest.mark.anyio
NUM_STREAMS = 16
MIB = 1024**2


@pytest.fixture
async def first(backend: Backend) -> AsyncIterator[DeploymentRecord]:
    """tiny/1, and nothing else."""
    yield await backend.cluster.deploy("tiny", 1, "int8", traffic_weight=40)
    await undeploy_all(backend)


@asynccontextmanager
async def under_load(backend: Backend) -> AsyncIterator[Counter[tuple[int, str]]]:
    """Within it, streams without end; what they answered, by version. The first failure ends the test."""
    answers: Counter[tuple[int, str]] = Counter()

    async def ask() -> None:
        while True:
            target = language_model(backend)
            answers[target.version, await complete(backend, target)] += 1

    async with anyio.create_task_group() as streams:
        for _ in range(NUM_STREAMS):
            streams.start_soon(ask)
        yield answers
        streams.cancel_scope.cancel()


@contextmanager
def damaged(settings: BackSettings, sha256: str) -> Iterator[None]:
    blob = settings.blobs / sha256[:2] / sha256
    content = blob.read_bytes()
    blob.write_bytes(content[: len(content) // 2])
    try:
        yield
    finally:
        blob.write_bytes(content)


async def test_under_load_nothing_fails(
    backend: Backend, cluster_settings: BackSettings, first: DeploymentRecord
) -> None:
    async with under_load(backend) as answers:
        await until(lambda: answers.total() > NUM_STREAMS, "load")
        chosen = language_model(backend)
        before = await complete(backend, chosen)
        begin = time.monotonic()
        second = await backend.cluster.replace(first.id, 2, "fp32")
        seconds = time.monotonic() - begin
        assert await complete(backend, chosen) == before  # a task that had chosen it goes on there
        await until(lambda: backend.cluster.deployments()[0].rollout is None, "the old one is gone")
        await until(lambda: {version for version, _ in answers} == {1, 2}, "answers of both")
    assert len(answers) == 2  # each version has one greedy answer
    assert (second.id, second.version, second.variant) == (first.id, 2, Variant.FP32)
    assert (second.state, second.traffic_weight, second.created) == (
        DeploymentState.READY,
        40,
        first.created,
    )
    assert second.rollout == Rollout("draining", 1, Variant.INT8)
    assert await backend.deployments.list("tiny") == [backend.cluster.deployments()[0]]
    assert stub_pids(cluster_settings, "tiny", 1) == []
    assert backend.cluster.servers()[0].models == ["tiny/2"]
    with pytest.raises(NotFound, match="version 1 is not deployed"):
        language_model(backend, 1)
    with pytest.raises(Unavailable, match="tiny/1 was undeployed"):
        await complete(backend, chosen)
    print(f"{answers.total()} streams, 0 failures; replaced after {seconds:.1f} s")


async def test_a_version_that_does_not_load_leaves_the_old_one(
    backend: Backend, cluster_settings: BackSettings, first: DeploymentRecord
) -> None:
    version = await backend.models.version("tiny", 2)
    async with under_load(backend) as answers:
        with (
            damaged(cluster_settings, version.files["fp32/model.onnx"].sha256),
            pytest.raises(ServerFault, match="tiny/2 does not load"),
        ):
            await backend.cluster.replace(first.id, 2, "fp32")
        reached = answers.total()
        await until(lambda: answers.total() > reached + NUM_STREAMS, "answers after it")
    assert {number for number, _ in answers} == {1}
    (record,) = backend.cluster.deployments()
    assert (record.version, record.state, record.rollout) == (1, DeploymentState.READY, None)
    assert [item.version for item in await backend.deployments.list("tiny")] == [1]
    assert stub_pids(cluster_settings, "tiny", 2) == []


async def test_what_cannot_take_its_place_is_refused(
    backend: Backend, first: DeploymentRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = backend.cluster.replace
    assert (await replace(first.id, 1, "int8")) == (await replace(first.id))  # it is so already
    with pytest.raises(NotFound, match="no version 9"):
        await replace(first.id, 9)
    with pytest.raises(NotFound, match="deployment 'dep-0' does not exist"):
        await replace("dep-0", 2)
    with pytest.raises(Conflict, match=r"holds a version once.*tiny/1 needs 1 more, 0 of 1 can"):
        await replace(first.id, precision="fp32")
    with monkeypatch.context() as patched:
        patched.setattr(local_triton, "available_memory", lambda: 10 * MIB)
        with pytest.raises(
            Conflict, match=r"tiny/2 in fp32 does not fit beside tiny/1 in int8.*10 MiB are f"
        ):
            await replace(first.id, 2, "fp32")
    second = await backend.cluster.deploy("tiny", 2, "fp32")
    with pytest.raises(Conflict, match=f"tiny/2 is deployed already, as '{second.id}'"):
        await replace(first.id, 2)
    assert await complete(backend, language_model(backend, 1))


async def test_the_version_before_comes_back_once_it_has_ended_its_requests(
    backend: Backend, first: DeploymentRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def until_ended(*_: object) -> None:
        await ended.wait()

    monkeypatch.setattr(rollout, "until_idle", until_ended)
    await backend.cluster.replace(first.id, 2, "fp32")
    with pytest.raises(Conflict, match="tiny/1 still ends the requests that it had when tiny/2 took its"):
        await backend.cluster.replace(first.id, 1, "int8")
    ended.set()
    await until(lambda: backend.cluster.deployments()[0].rollout is None, "the old one is gone")
    back = await backend.cluster.replace(first.id, 1, "int8")
    assert (back.id, back.version, back.state) == (first.id, 1, DeploymentState.READY)


async def test_only_one_replacement_at_a_time_and_an_undeployment_ends_it(
    backend: Backend, first: DeploymentRecord
) -> None:
    replacing = asyncio.create_task(backend.cluster.replace(first.id, 2, "fp32"))
    await until(lambda: backend.cluster.deployments()[0].rollout is not None, "the replacement")
    assert backend.cluster.deployments()[0].rollout == Rollout("loading", 2, Variant.FP32)
    with pytest.raises(Conflict, match="is being replaced"):
        await backend.cluster.replace(first.id, 2, "int8")
    await backend.cluster.undeploy(first.id)
    with pytest.raises(Conflict, match="undeployed"):
        await replacing
    assert backend.cluster.deployments() == []
    assert await backend.deployments.list("tiny") == []
    assert backend.cluster.servers()[0].models == []
    with pytest.raises(NotFound):
        backend.cluster.choose("tiny", None, Kind.LM)
