"""Deploying into a real Triton with the real `lmaas` backend."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from typing import Any

import anyio
import pytest

from api.back.backend import Backend
from api.back.cluster import controller, local_triton
from api.back.cluster.metrics import engine_counters
from api.back.cluster.records import ServerState
from api.back.cluster.repository import ModelRepository
from api.back.cluster.server_home import ServerHome
from api.back.settings import BackSettings
from api.back.store.records import DeploymentState
from api.errors import Conflict, InvalidInput, NotFound, StoreUnavailable, Unavailable
from runtime.contract import Kind, Operation, Variant
from runtime.messages import Answer, Candidates, Embedded, Scored
from tests.api.back.cluster.requests import POLL_SECONDS, complete, language_model, stub_pids, until
from tests.api.back.stores import locked

pytestmark = pytest.mark.anyio


async def deployed(backend: Backend, model: str = "tiny", version: int = 1, precision: str = "auto") -> str:
    """The id of the deployment of a version, which is made where there is none."""
    for record in backend.cluster.deployments():
        if (record.model, record.version) == (model, version):
            return record.id
    return (await backend.cluster.deploy(model, version, precision)).id


async def undeployed(backend: Backend, model: str, version: int) -> None:
    for record in backend.cluster.deployments():
        if (record.model, record.version) == (model, version):
            await backend.cluster.undeploy(record.id)


async def test_a_language_model_answers(backend: Backend) -> None:
    await undeployed(backend, "tiny", 1)
    await undeployed(backend, "tiny", 2)
    record = await backend.cluster.deploy("tiny", 1, "auto")
    assert (record.variant, record.state) == (Variant.INT8, DeploymentState.READY)
    assert await backend.deployments.list("tiny") == [record]
    target = language_model(backend)
    assert (target.model, target.version, target.kind) == ("tiny", 1, Kind.LM)
    assert target.context_length == 96
    streamed = await complete(backend, target)
    assert streamed
    assert await complete(backend, target, stream=False) == streamed


async def test_every_operation_has_its_answer(backend: Backend) -> None:
    await deployed(backend)
    wanted: dict[Operation, dict[str, Any]] = {
        Operation.SCORE: {"continuations": [" sat", " ran home"]},
        Operation.NEXT: {"top_k": 3},
        Operation.EMBED: {},
    }
    found: list[Answer] = []
    for operation, parameters in wanted.items():
        answer = backend.cluster.generate(
            language_model(backend),
            prompt="the dog",
            parameters=parameters,
            operation=operation,
            stream=False,
        )
        found += [reply async for reply in answer]
    scored, ranked, embedded = found
    assert isinstance(scored, Scored)
    assert len(scored.scores) == 2
    assert isinstance(ranked, Candidates)
    assert len(ranked.candidates) == 3
    assert isinstance(embedded, Embedded)
    assert len(embedded.embedding) == 64


async def test_a_classifier_answers(backend: Backend) -> None:
    await deployed(backend, "head")
    target = backend.cluster.choose(None, None, Kind.CLASSIFIER, fallback=Kind.LM)
    assert target.labels == ("bad", "fair", "good")
    (alone,) = await backend.cluster.classify(target, ["the cat"])
    (pair,) = await backend.cluster.classify(target, ["the cat"], ["the dog"])
    assert sum(alone.scores) == pytest.approx(1, abs=1e-4)
    assert alone.label == target.labels[alone.scores.index(max(alone.scores))]
    assert alone.slots is None
    assert pair.scores != alone.scores


async def test_what_the_engine_refuses_names_the_field(backend: Backend) -> None:
    await deployed(backend)
    for field in ("max_tokens", "nonsense"):
        parameters: dict[str, Any] = {field: 1000}
        with pytest.raises(InvalidInput) as caught:
            await complete(backend, language_model(backend), **parameters)
        assert caught.value.errors[0].field == field


async def test_a_second_version_does_not_disturb_the_first(
    backend: Backend, cluster_settings: BackSettings
) -> None:
    await deployed(backend)
    await undeployed(backend, "tiny", 2)
    before = stub_pids(cluster_settings, "tiny", 1)
    expected = await complete(backend, language_model(backend, 1))
    await until(lambda: backend.cluster.readiness().ready, "readiness")
    answers, ready = [], []

    async with anyio.create_task_group() as group:

        async def ask() -> None:
            while True:
                answers.append(await complete(backend, language_model(backend, 1)))
                ready.append(backend.cluster.readiness().ready)

        group.start_soon(ask)
        second = await backend.cluster.deploy("tiny", "latest", "fp32", traffic_weight=0)
        group.cancel_scope.cancel()
    assert len(answers) > 3
    assert set(answers) == {expected}
    assert all(ready)  # what has never served does not count
    assert second.version == 2
    assert stub_pids(cluster_settings, "tiny", 1) == before
    assert await complete(backend, language_model(backend, "latest")) != expected
    assert language_model(backend).version == 1  # all traffic, for the other has weight 0
    with pytest.raises(InvalidInput, match="replicas: 2, but this cluster has 1 server: 1 is possible"):
        await backend.cluster.adjust(second.id, replicas=2, traffic_weight=50)
    assert (await backend.cluster.adjust(second.id, replicas=1)).traffic_weight == 0
    await backend.cluster.adjust(second.id, traffic_weight=100)
    assert {language_model(backend).version for _ in range(2)} == {1, 2}

    await backend.cluster.undeploy(second.id)
    assert stub_pids(cluster_settings, "tiny", 2) == []
    assert stub_pids(cluster_settings, "tiny", 1) == before
    assert await complete(backend, language_model(backend)) == expected
    with pytest.raises(NotFound, match="version 2 is not deployed"):
        language_model(backend, 2)


async def test_closing_the_answer_cancels_in_the_engine(backend: Backend) -> None:
    await deployed(backend)
    address = backend.cluster.servers()[0].metrics_address
    series = 'lmaas_engine_sequences_finished_total{model="tiny",reason="%s",version="1"}'

    async def finished(*reasons: str) -> float:
        counters = await engine_counters(address, "tiny", 1)
        return sum(counters.get(series % reason, 0) for reason in reasons)

    before = await finished("cancelled")  # another test may have cancelled some
    for _ in range(20):  # on a busy machine the small model may be done before it hears of the cancelling
        ended = await finished("cancelled", "length")
        answer = backend.cluster.generate(
            language_model(backend),
            prompt="the",
            parameters={"max_tokens": 90, "ignore_eos": True, "n": 16},
            operation=Operation.GENERATE,
            stream=True,
        )
        await answer.__anext__()
        assert backend.cluster.servers()[0].outstanding == 1
        await answer.aclose()
        assert backend.cluster.servers()[0].outstanding == 0
        begin = time.monotonic()
        while await finished("cancelled", "length") < ended + 16:
            assert time.monotonic() - begin < 60
            await anyio.sleep(POLL_SECONDS)
        if await finished("cancelled") > before:
            return
    raise AssertionError("nothing was cancelled")


async def test_the_engine_shows_that_it_works(backend: Backend) -> None:
    """The prober trusts these counters where a full engine leaves a probe waiting."""
    await deployed(backend)
    address = backend.cluster.servers()[0].metrics_address
    series = 'lmaas_engine_steps_total{model="tiny",version="1"}'
    before = await engine_counters(address, "tiny", 1)
    await complete(backend, language_model(backend))
    begin = time.monotonic()
    while (await engine_counters(address, "tiny", 1))[series] == before[series]:
        assert time.monotonic() - begin < 60
        await anyio.sleep(POLL_SECONDS)
    assert await engine_counters(address, "tiny", 9) == {}


async def test_undeploying_takes_everything_away(backend: Backend, cluster_settings: BackSettings) -> None:
    deployment = await deployed(backend)
    await undeployed(backend, "tiny", 2)
    target = language_model(backend)
    await backend.cluster.undeploy(deployment)
    assert not (ServerHome(cluster_settings).repository / "tiny").exists()
    assert stub_pids(cluster_settings, "tiny", 1) == []
    assert await backend.deployments.list("tiny") == []
    with pytest.raises(NotFound, match="'tiny' is not deployed"):
        language_model(backend)
    with pytest.raises(Unavailable, match="undeployed"):
        await complete(backend, target)
    with pytest.raises(NotFound):
        await backend.cluster.undeploy(deployment)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("tiny", 1, "fp16"), InvalidInput, "needs a GPU"),
        (("tiny", 1, "bf16"), InvalidInput, "not one of auto"),
        (("tiny", 1, "auto", 2), InvalidInput, "1 server"),
        (("tiny", 1, "auto", 1, 101), InvalidInput, "0..100"),
        (("tiny", 9, "auto"), NotFound, "no version 9"),
        (("other", "latest", "auto"), NotFound, "'other'"),
        (("head", 1, "auto"), Conflict, "deployed already"),
    ],
)
async def test_what_cannot_be_deployed_is_refused(
    backend: Backend, arguments: tuple[Any, ...], error: type[Exception], text: str
) -> None:
    await deployed(backend, "head")
    with pytest.raises(error, match=text):
        await backend.cluster.deploy(*arguments)
    assert [record.model for record in backend.cluster.deployments()].count("tiny") <= 1


async def test_a_deployment_beyond_the_memory_is_refused(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_triton, "available_memory", lambda: 10 * 1024**2)
    with pytest.raises(Conflict, match="10 MiB are free"):
        await backend.cluster.deploy("tiny", 2, "fp32")


async def test_a_version_that_does_not_load_says_why_and_leaves_nothing(
    backend: Backend, cluster_settings: BackSettings
) -> None:
    await undeployed(backend, "tiny", 2)
    version = await backend.models.version("tiny", 2)
    graph = version.files["fp32/model.onnx"]
    blob = cluster_settings.blobs / graph.sha256[:2] / graph.sha256
    content = blob.read_bytes()
    blob.write_bytes(content[: len(content) // 2])
    try:
        with pytest.raises(Exception, match="tiny/2 does not load") as caught:
            await backend.cluster.deploy("tiny", 2, "fp32")
    finally:
        blob.write_bytes(content)
    assert "Traceback" not in str(caught.value)
    assert all(record.version == 1 for record in backend.cluster.deployments())
    assert not (ServerHome(cluster_settings).repository / "tiny" / "2").exists()


async def test_undeploying_what_is_still_loading_ends_both_calls(backend: Backend) -> None:
    await undeployed(backend, "tiny", 2)
    deploying = asyncio.create_task(backend.cluster.deploy("tiny", 2, "fp32"))
    await until(lambda: any(record.version == 2 for record in backend.cluster.deployments()), "loading")
    (loading,) = [record for record in backend.cluster.deployments() if record.version == 2]
    assert loading.state is DeploymentState.LOADING
    await backend.cluster.undeploy(loading.id)
    with pytest.raises(Conflict, match="tiny/2 was undeployed while it loaded"):
        await asyncio.wait_for(deploying, 5)
    assert all(record.version == 1 for record in await backend.deployments.list("tiny"))
    assert await backend.cluster.deploy("tiny", 2, "fp32")


async def test_a_deployment_that_cannot_be_laid_out_leaves_nothing(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await undeployed(backend, "head", 1)

    async def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(ModelRepository, "lay_out", full)
        with pytest.raises(OSError, match="No space left"):
            await backend.cluster.deploy("head", 1, "fp32")
    assert await backend.deployments.list("head") == []
    assert (await backend.cluster.deploy("head", 1, "fp32")).state is DeploymentState.READY


async def test_a_cancellation_that_is_lost_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "CANCEL_SECONDS", 0.01)
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:  # noqa: PERF203 - that it goes on is the point
                lost += 1
                if lost == 3:
                    raise

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await asyncio.wait_for(controller.end(task), 5)
    assert (task.done(), lost) == (True, 3)


async def test_the_pool_and_its_readiness_show(backend: Backend) -> None:
    await deployed(backend)
    await until(lambda: backend.cluster.readiness().ready, "readiness")
    readiness = backend.cluster.readiness()
    assert readiness.reasons == []
    assert all(age is not None and age < 5 for age in readiness.probes.values())
    (server,) = backend.cluster.servers()
    assert server.state is ServerState.READY
    assert "tiny/1" in server.models
    assert (server.restarts, server.backoff) == (0, 0)
    assert server.last_probe is not None


async def test_what_cannot_be_recorded_is_not_undeployed(
    backend: Backend, cluster_settings: BackSettings
) -> None:
    deployment_id = await deployed(backend)
    with locked(cluster_settings), pytest.raises(StoreUnavailable, match="locked by another process"):
        await backend.cluster.undeploy(deployment_id)
    assert await complete(backend, language_model(backend, 1))
    await backend.cluster.undeploy(deployment_id)
    assert deployment_id not in {record.id for record in await backend.deployments.list("tiny")}
