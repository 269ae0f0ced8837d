"""Deployment records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from api.back.store.records import Autoscale, Capacity, DeploymentRecord, DeploymentState, now
from api.back.store.task_queue import TaskQueue
from api.errors import Conflict, NotFound
from runtime.contract import Variant
from tests.api.back.stores import Stores

pytestmark = pytest.mark.anyio


def record(number: int, version: int = 1) -> DeploymentRecord:
    return DeploymentRecord(
        f"dep-{number}", "tiny", version, "auto", Variant.INT8, DeploymentState.LOADING, 1, 100, now()
    )


async def test_a_version_is_deployed_once(stores: Stores, upload: Callable[[str], Path]) -> None:
    await stores.models.add_upload("tiny", upload("lm"), "x")
    first = record(1)
    await stores.deployments.add(first)
    with pytest.raises(Conflict, match="deployed already"):
        await stores.deployments.add(record(2))
    with pytest.raises(Conflict, match="deleted"):
        await stores.deployments.add(record(3, version=7))
    assert await stores.deployments.list() == [first] == await stores.deployments.list("tiny")
    assert await stores.deployments.list("other") == []


async def test_a_facade_lives_while_its_lease_lasts(stores: Stores) -> None:
    assert await stores.deployments.facades() == frozenset()
    await stores.queue.extend()
    assert await stores.deployments.facades() == {stores.queue.worker}
    dead = TaskQueue(stores.database, stores.writer, "dead", lease=timedelta(seconds=-1))
    await dead.extend()
    assert await stores.deployments.facades() == {stores.queue.worker}


async def test_update_and_delete(stores: Stores, upload: Callable[[str], Path]) -> None:
    await stores.models.add_upload("tiny", upload("lm"), "x")
    await stores.deployments.add(record(1))
    ready = dataclasses.replace(
        record(1), state=DeploymentState.READY, autoscale=Autoscale(0, 4, 0.5),
        capacity=Capacity(8.5, None, 0.1, 0.2, "2026-11-29T12:00:00Z", "lmaas perf capacity tiny", 2),
    )  # fmt: skip
    await stores.deployments.update(ready)
    assert await stores.deployments.list() == [ready]
    await stores.deployments.delete("dep-1")
    assert await stores.deployments.list() == []
    for call in (stores.deployments.update(ready), stores.deployments.delete("dep-1")):
        with pytest.raises(NotFound, match="dep-1"):
            await call
