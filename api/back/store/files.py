"""Callers' files: uploads for batches, and what batches wrote. Records here, bytes in the blob store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from sqlalchemy import ColumnElement, Select, and_, delete, func, insert, or_, select, update

from api.back.store import garbage
from api.back.store.blobs import BlobStore
from api.back.store.database import Database
from api.back.store.records import FileRecord, now
from api.back.store.sweeping import sweeping
from api.back.store.tables import caller_files
from api.errors import NotFound

MEDIA_TYPE = "application/octet-stream"  # a browser shows nothing of it
CHUNK = 1 << 20  # bytes that are read at once
SWEEP_BATCH = 100  # files deleted in one transaction
SWEEP_SECONDS = 600.0  # between two looks for files that have expired


Records = list[FileRecord]  # inside the class, `list` is its own method


class FileDownload:
    """The bytes of a file, as a response sends them."""

    media_type = MEDIA_TYPE

    def __init__(self, record: FileRecord, blobs: BlobStore) -> None:
        self.filename = f"{record.id}.jsonl"  # the caller's own name may hold anything
        self.etag = record.sha256
        self.size = record.size
        self._blobs = blobs

    async def read(self, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to, not including, `end`, in chunks of at most CHUNK bytes."""
        end = self.size if end is None else min(end, self.size)
        while start < end:
            stop = min(end, start + CHUNK)
            yield await self._blobs.read(self.etag, start, stop)
            start = stop


class FileStore:
    """A file belongs to one owner, and is as if it did not exist for another one. `owner` None: anybody's."""

    def __init__(self, database: Database, blobs: BlobStore, clock: Callable[[], datetime] = now) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._closing = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database: Database, blobs: BlobStore, clock: Callable[[], datetime] = now
    ) -> AsyncIterator[FileStore]:
        """Deletes files that have expired, now and then."""
        store = cls(database, blobs, clock)
        async with sweeping(store.sweep, "expired files", SWEEP_SECONDS, store._closing):
            yield store

    async def add(self, record: FileRecord, path: Path) -> None:
        """Store the bytes at `path`, which `record` describes. A record with the same id is replaced.

        The file at `path` stays. Raises StoreUnavailable.
        """
        async with self._blobs.lock.keeping():
            await self._blobs.put(path, record.sha256)
            fields = {name: getattr(record, name) for name in FileRecord.__slots__}
            async with self._database.write() as connection:
                await connection.execute(delete(caller_files).where(caller_files.c.id == record.id))
                await connection.execute(insert(caller_files).values(fields))

    async def count(self, owner: str | None) -> int:
        query = select(func.count()).select_from(caller_files).where(self._visible(owner))
        async with self._database.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def get(self, file_id: str, owner: str | None) -> FileRecord:
        """Raises NotFound."""
        query = select(caller_files).where(caller_files.c.id == file_id, self._visible(owner))
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise NotFound(f"file {file_id[:64]!r} does not exist")
        return FileRecord(**row._mapping)

    async def list(
        self, owner: str | None, *, purpose: str | None, limit: int, after: str | None, ascending: bool
    ) -> Records:
        """By age; `after` is the id of the file to go on after. Raises NotFound."""
        query: Select[tuple[object, ...]] = select(caller_files).where(self._visible(owner))
        if purpose is not None:
            query = query.where(caller_files.c.purpose == purpose)
        if after is not None:
            last = await self.get(after, owner)
            created, number = caller_files.c.created, caller_files.c.id
            later = (created > last.created, number > last.id)
            earlier = (created < last.created, number < last.id)
            beyond, beside = later if ascending else earlier
            query = query.where(or_(beyond, and_(created == last.created, beside)))
        order = (caller_files.c.created, caller_files.c.id)
        query = query.order_by(*order if ascending else [column.desc() for column in order]).limit(limit)
        async with self._database.read() as connection:
            return [FileRecord(**row._mapping) for row in await connection.execute(query)]

    async def delete(self, file_id: str, owner: str | None) -> None:
        """Raises NotFound."""
        await self._delete([await self.get(file_id, owner)])

    async def place(self, sha256: str, path: Path) -> None:
        """Make a file's bytes readable at `path`, where they stay after the file is deleted."""
        await asyncio.to_thread(path.unlink, missing_ok=True)
        await self._blobs.place(sha256, path, plain=True)

    async def set_expiry(self, file_id: str, moment: datetime) -> None:
        async with self._database.write() as connection:
            here = caller_files.c.id == file_id
            await connection.execute(update(caller_files).where(here).values(expires=moment))

    def download(self, record: FileRecord) -> FileDownload:
        return FileDownload(record, self._blobs)

    async def sweep(self) -> int:
        """Delete what has expired, some at a time so that others can write too; returns how many."""
        query = select(caller_files).where(~self._alive()).order_by(caller_files.c.expires).limit(SWEEP_BATCH)
        count = 0
        while not self._closing.is_set():
            async with self._database.read() as connection:
                expired = [FileRecord(**row._mapping) for row in await connection.execute(query)]
            if not expired:
                break
            await self._delete(expired)
            count += len(expired)
        return count

    async def _delete(self, records: Sequence[FileRecord]) -> None:
        """Remove the records, and the blobs that nothing else refers to."""
        blobs = {record.sha256 for record in records}
        async with self._database.write() as connection:
            ids = [record.id for record in records]
            await connection.execute(delete(caller_files).where(caller_files.c.id.in_(ids)))
        await garbage.delete_unreferenced(self._database, self._blobs, blobs)

    def _visible(self, owner: str | None) -> ColumnElement[bool]:
        return self._alive() if owner is None else and_(self._alive(), caller_files.c.owner == owner)

    def _alive(self) -> ColumnElement[bool]:
        return caller_files.c.expires > self._clock()
