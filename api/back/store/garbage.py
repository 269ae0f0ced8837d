"""Blobs that nothing refers to: found, and deleted once they are old enough."""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

from api.back.store import catalog
from api.back.store.blobs import Blob, BlobStore
from api.back.store.database import Database
from api.back.store.records import now
from api.back.store.sweeping import sweeping
from api.errors import StoreUnavailable

SWEEP_SECONDS = 3600.0  # between two looks
BATCH = 100  # blobs that are deleted while others wait
WAIT_SECONDS = 2.0  # for those who read or refer to blobs; what cannot be deleted then is left to a sweep

logger = logging.getLogger(__name__)


async def find_unreferenced(database: Database, blobs: BlobStore, grace: timedelta) -> list[Blob]:
    """Those that were last written longer than `grace` ago: a younger one may be about to be referred to."""
    limit = now() - grace
    old = [blob for blob in await blobs.all() if blob.modified <= limit]
    async with database.read() as connection:
        in_use = await catalog.referenced(connection)
    return [blob for blob in old if blob.sha256 not in in_use]


async def collect(database: Database, blobs: BlobStore, grace: timedelta) -> list[Blob]:
    """Delete what `find_unreferenced` finds; returns what was deleted. Safe while others serve.

    Raises StoreUnavailable.
    """
    found = await find_unreferenced(database, blobs, grace)
    gone: set[str] = set()
    for start in range(0, len(found), BATCH):
        batch = {blob.sha256 for blob in found[start : start + BATCH]}
        async with blobs.lock.deleting():
            gone |= await _delete(database, blobs, batch)
    return [blob for blob in found if blob.sha256 in gone]


async def delete_unreferenced(database: Database, blobs: BlobStore, sha256s: Collection[str]) -> None:
    """Delete those that nothing refers to any more, if that is possible now; a sweep does it later if not."""
    try:
        async with blobs.lock.deleting(WAIT_SECONDS):
            await _delete(database, blobs, sha256s)
    except StoreUnavailable:
        logger.warning("unused blobs stay until the next clean-up")


async def _delete(database: Database, blobs: BlobStore, sha256s: Collection[str]) -> set[str]:
    """`blobs.lock.deleting` is held."""
    async with database.read() as connection:
        unused = set(sha256s) - await catalog.referenced(connection, sha256s)
    await blobs.delete(sorted(unused))
    return unused


def collecting(database: Database, blobs: BlobStore, grace: timedelta) -> AbstractAsyncContextManager[None]:
    """Within it, garbage is collected regularly."""

    async def sweep() -> int:
        return len(await collect(database, blobs, grace))

    return sweeping(sweep, "unused blobs", SWEEP_SECONDS)
