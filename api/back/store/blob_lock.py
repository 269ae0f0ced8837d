"""Blobs are not deleted while a process refers to them: among all processes that use one database."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import text

from api.back.store.database import Database
from api.back.store.failures import report, translated
from api.errors import StoreUnavailable

WAIT_SECONDS = 30.0
POLL_SECONDS = 0.02
ADVISORY_KEY = 0x6C6D6161735F62  # "lmaas_b", of PostgreSQL's advisory locks


class BlobLock:
    """A lock that many share or one has alone; it ends with its process.

    An SQLite database is used by processes of one machine, so that a locked file of its folder serves. With
    PostgreSQL the façades may run on several machines: it is an advisory lock there.
    """

    def __init__(self, database: Database, file: Path) -> None:
        self._database = database
        self._file = file

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        """No blob is deleted within it. Held from putting one until it has a reference, or while it is read.

        Raises StoreUnavailable.
        """
        async with self._held(shared=True, wait_seconds=WAIT_SECONDS):
            yield

    @asynccontextmanager
    async def deleting(self, wait_seconds: float = WAIT_SECONDS) -> AsyncIterator[None]:
        """Hold it alone. Raises StoreUnavailable, at the latest after `wait_seconds`."""
        async with self._held(shared=False, wait_seconds=wait_seconds):
            yield

    @asynccontextmanager
    async def _held(self, *, shared: bool, wait_seconds: float) -> AsyncIterator[None]:
        if self._database.is_sqlite:
            with translated(self._file):
                descriptor = os.open(self._file, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
                end = time.monotonic() + wait_seconds
                while not _locked(descriptor, how):
                    await _wait(end)
                yield
            finally:
                os.close(descriptor)
        else:
            async with self._database.read() as connection:
                suffix = "_shared" if shared else ""
                attempt = text(f"SELECT pg_try_advisory_xact_lock{suffix}(:key)").bindparams(key=ADVISORY_KEY)
                end = time.monotonic() + wait_seconds
                while not await connection.scalar(attempt):
                    await _wait(end)
                yield


def _locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    return True


async def _wait(end: float) -> None:
    """Until the next try. Raises StoreUnavailable."""
    if time.monotonic() >= end:
        raise report(
            StoreUnavailable("the blob store is held by a backup, an upload or a clean-up; try again later")
        )
    await asyncio.sleep(POLL_SECONDS)
