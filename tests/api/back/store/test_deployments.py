"""Deployment records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from api.back.store.records import DeploymentRecord, DeploymentState, now
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


async def test_update_and_delete(stores: Stores, upload: Callable[[str], Path]) -> None:
    await stores.models.add_upload("tiny", upload("lm"), "x")
    await stores.deployments.add(record(1))
    ready = dataclasses.replace(await stores.deployments.get("dep-1"), state=DeploymentState.READY)
    await stores.deployments.update(ready)
    assert await stores.deployments.get("dep-1") == ready
    await stores.deployments.delete("dep-1")
    for call in (stores.deployments.get("dep-1"), stores.deployments.delete("dep-1")):
        with pytest.raises(NotFound, match="dep-1"):
            await call
    with pytest.raises(NotFound, match="dep-1"):
        await stores.deployments.update(ready)
