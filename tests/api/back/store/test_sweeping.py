"""The loop that deletes what is old: failures of the store, and the end of the block."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from api.back.store.sweeping import sweeping
from api.back.store.uploads import UploadStore
from api.errors import StoreUnavailable
from tests.api.back.stores import Stores

pytestmark = pytest.mark.anyio


async def test_a_store_that_fails_is_tried_again() -> None:
    calls, again = 0, asyncio.Event()

    async def sweep() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StoreUnavailable("the disk is away")
        again.set()
        return 0

    with anyio.fail_after(20):
        async with sweeping(sweep, "old things", 0.0):
            await again.wait()


async def test_a_sweep_that_knows_the_end_is_awaited() -> None:
    closing, begun, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def sweep() -> int:
        begun.set()
        await closing.wait()
        done.set()
        return 1

    with anyio.fail_after(20):
        async with sweeping(sweep, "old things", 3600.0, closing):
            await begun.wait()
    assert done.is_set()


async def test_a_sweep_that_does_not_know_it_is_cancelled() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def sweep() -> int:
        endless: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        begun.set()
        try:
            return await endless
        finally:
            cancelled.set()

    with anyio.fail_after(20):
        async with sweeping(sweep, "old things", 3600.0):
            await begun.wait()
    assert cancelled.is_set()


async def test_uploads_that_were_given_up_go_at_the_start(stores: Stores, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    old, young = folder / f"{'a' * 64}.part", folder / f"{'b' * 64}.part"
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    opening = UploadStore.open(
        folder, stores.blobs, max_bytes=10, max_uploads=2, retention=timedelta(hours=1)
    )
    with anyio.fail_after(20):
        async with opening:
            while old.exists():  # noqa: ASYNC110
                await anyio.sleep(0.001)
    assert young.exists()
