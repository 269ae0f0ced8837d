"""Two façades, each with its Triton, over one PostgreSQL and one store of files: what one does, both do."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from api.back.backend import Backend
from api.back.cluster.following import compare
from api.back.cluster.manager import ClusterManager
from api.back.settings import BackSettings
from api.back.store.records import DeploymentRecord, DeploymentState
from api.errors import NotFound
from bench.chaos.services import Postgres
from tests.api.back.cluster.requests import complete, language_model, until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def pair(
    archives: dict[str, Path],
    cluster_settings: BackSettings,
    postgres: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
    anyio_backend: str,
) -> AsyncIterator[tuple[Backend, Backend]]:
    folder = tmp_path_factory.mktemp("pair")
    (folder / "blobs").mkdir()
    shared = dataclasses.replace(
        cluster_settings,
        database_url=postgres.create_database(),
        blob_url=(folder / "blobs").as_uri(),
        replace_drain_seconds=1.0,
    )
    one, two = (dataclasses.replace(shared, home=folder / name) for name in ("one", "two"))
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("api.back.cluster.following.FOLLOW_SECONDS", 0.1)
    async with Backend.open(one) as first, Backend.open(two) as second:
        for archive in ("lm", "other-lm"):
            upload = Path(shutil.copy(archives[archive], folder / "upload"))
            version, _ = await first.models.add_upload("tiny", upload, archive)
            await first.converter.convert(version)
        yield first, second
    monkeypatch.undo()


def ready(backend: Backend, check: Callable[[DeploymentRecord], bool] = lambda record: True) -> bool:
    records = backend.cluster.deployments()
    return any(record.state is DeploymentState.READY and check(record) for record in records)


async def test_what_one_deploys_changes_and_undeploys_the_other_does_too(
    pair: tuple[Backend, Backend],
) -> None:
    first, second = pair
    record = await first.cluster.deploy("tiny", 1, "fp32")
    await until(lambda: ready(second), "deployed by the other façade")
    expected = await complete(first, language_model(first))
    assert await complete(second, language_model(second)) == expected

    await first.models.update("tiny", aliases={"stable": 1})
    await second.cluster.adjust(record.id, traffic_weight=40)
    await until(lambda: ready(first, lambda found: found.traffic_weight == 40), "the weight")
    await until(lambda: "stable" in second.models._aliases["tiny"], "the alias")
    assert language_model(second, "stable").version == 1

    await second.cluster.replace(record.id, version=2)
    await until(lambda: ready(first, lambda found: found.version == 2), "replaced")
    assert await complete(first, language_model(first)) == await complete(second, language_model(second))
    with pytest.raises(NotFound):
        language_model(first, 1)

    await first.cluster.undeploy(record.id)
    await until(lambda: not second.cluster.deployments(), "undeployed")
    assert await first.deployments.list() == []


async def test_what_is_loading_elsewhere_is_not_followed_and_what_just_came_is_not_gone(
    pair: tuple[Backend, Backend],
) -> None:
    first, _ = pair
    record = await first.cluster.deploy("tiny", 1, "fp32")
    present = first.cluster.present
    loading = dataclasses.replace(record, id="other", state=DeploymentState.LOADING)
    assert compare([record, loading], present, [record.id]) == compare([record], present, [record.id])
    assert compare([], present, []).gone == []
    assert [gone.record.id for gone in compare([], present, [record.id]).gone] == [record.id]
    leaving = dataclasses.replace(record, state=DeploymentState.UNLOADING)
    assert [gone.record.id for gone in compare([leaving], present, [record.id]).gone] == [record.id]
    await first.cluster.undeploy(record.id)


async def test_what_cannot_be_followed_is_tried_again_later(
    pair: tuple[Backend, Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    record = await first.cluster.deploy("tiny", 1, "fp32")
    await until(lambda: ready(second), "deployed by the other façade")
    tries = 0
    follow = ClusterManager.follow_replacement

    async def fail_once(self: ClusterManager, *arguments: object) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("the disk is full")
        await follow(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ClusterManager, "follow_replacement", fail_once)
    monkeypatch.setattr("api.back.cluster.following.AGAIN_SECONDS", 0.1)
    await first.cluster.replace(record.id, version=2)
    await until(lambda: ready(second, lambda found: found.version == 2), "replaced in the second try")
    assert tries == 2
    await first.cluster.undeploy(record.id)
    await until(lambda: not second.cluster.deployments(), "undeployed")
