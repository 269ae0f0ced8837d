"""Backup of records and files as one .tar, written while others serve; `restore` brings it back.

    manifest.json | lmaas.db | bundled.json, if there is one | blobs/<sha256> | ...

The manifest has the size and the digest of all that follows. The records are an SQLite database, also where
they come from PostgreSQL or go there. Of API keys only the hashes are in there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from sqlalchemy import delete, insert, select
from sqlalchemy.engine import URL

from api.back.home import LEDGER_FILE
from api.back.store import catalog
from api.back.store.blobs import CHUNK, BlobStore
from api.back.store.database import Database
from api.back.store.failures import translated
from api.back.store.records import StoredFile, now
from api.back.store.tables import metadata
from api.errors import ServerFault
from export.files import hash_file

FORMAT = 1
MANIFEST = "manifest.json"
DATABASE = "lmaas.db"
BLOBS = "blobs/"
ROWS = 1000  # that are copied at once
TAR_RECORD = 512


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds."""

    created: str  # ISO 8601
    files: dict[str, StoredFile]  # by name in the archive

    @property
    def num_blobs(self) -> int:
        return sum(name.startswith(BLOBS) for name in self.files)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())

    def to_json(self) -> bytes:
        files = {name: asdict(file) for name, file in self.files.items()}
        return json.dumps({"format": FORMAT, "created": self.created, "files": files}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Backup:
        """Raises ServerFault."""
        try:
            value = json.loads(text)
            if value["format"] != FORMAT:
                raise ServerFault(f"the backup has format {value['format']}, this LMaaS reads {FORMAT}")
            files = {
                str(name): StoredFile(str(file["sha256"]), int(file["size"]))
                for name, file in value["files"].items()
            }
            return cls(str(value["created"]), files)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServerFault(f"the backup's {MANIFEST} cannot be read: {error}") from None


async def write_backup(database: Database, blobs: BlobStore, home: Path, target: Path) -> Backup:
    """Write `target`, whole or not at all, readable by its owner alone. Uploads and requests go on meanwhile.

    Nothing is deleted from the blob store while it is copied. Raises ServerFault: `target` exists, or a blob
    is missing or damaged; StoreUnavailable.
    """
    if await asyncio.to_thread(target.exists):
        raise ServerFault(f"{target} exists already: name another file")
    with translated(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=".backup-") as scratch:
        async with blobs.lock.keeping():
            snapshot, partial = Path(scratch, DATABASE), Path(scratch, "backup.tar")
            await _snapshot(database, snapshot)
            async with Database.open(sqlite_url(snapshot)) as copy, copy.read() as connection:
                referenced = await catalog.referenced(connection)
            backup = await _describe(blobs, snapshot, home / LEDGER_FILE, referenced)
            with _created(partial) as archive:
                text = backup.to_json()
                await _append(archive, MANIFEST, len(text), _once(text))
                for name, file in backup.files.items():
                    await _append_file(
                        archive, blobs, name, file, {DATABASE: snapshot, LEDGER_FILE: home / LEDGER_FILE}
                    )
                archive.write(bytes(2 * TAR_RECORD))
                archive.flush()
                await asyncio.to_thread(os.fsync, archive.fileno())
        await asyncio.to_thread(partial.rename, target)
    return backup


def _created(path: Path) -> IO[bytes]:
    """Open a new file that its owner alone may read."""
    return open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")


async def _describe(blobs: BlobStore, snapshot: Path, ledger: Path, referenced: set[str]) -> Backup:
    files = {}
    for name, path in ((DATABASE, snapshot), (LEDGER_FILE, ledger)):
        if path.exists():
            size, sha256 = await asyncio.to_thread(hash_file, path)
            files[name] = StoredFile(sha256, size)
    there = {blob.sha256: blob.size for blob in await blobs.all()}
    for sha256 in sorted(referenced):
        if sha256 not in there:
            raise ServerFault(f"the blob {sha256} is missing: `lmaas store fsck` says what uses it")
        files[BLOBS + sha256] = StoredFile(sha256, there[sha256])
    return Backup(now().isoformat(), files)


async def _append_file(
    archive: IO[bytes], blobs: BlobStore, name: str, file: StoredFile, paths: Mapping[str, Path]
) -> None:
    chunks = _of_path(paths[name]) if name in paths else _of_blob(blobs, file)
    if await _append(archive, name, file.size, chunks) != file.sha256:
        raise ServerFault(f"{name} is damaged: `lmaas store fsck` says what uses it")


async def _append(archive: IO[bytes], name: str, size: int, chunks: AsyncIterator[bytes]) -> str:
    """Returns the sha256 of what was written."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    archive.write(entry.tobuf(tarfile.GNU_FORMAT))
    total = hashlib.sha256()
    async for chunk in chunks:
        total.update(chunk)
        await asyncio.to_thread(archive.write, chunk)
    archive.write(bytes(-size % TAR_RECORD))
    return total.hexdigest()


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _of_path(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk


async def _of_blob(blobs: BlobStore, file: StoredFile) -> AsyncIterator[bytes]:
    for start in range(0, file.size, CHUNK):
        yield await blobs.read(file.sha256, start, min(start + CHUNK, file.size))


async def _snapshot(database: Database, target: Path) -> None:
    """The records as they are at one moment."""
    if (file := database.file) is not None:
        await asyncio.to_thread(_vacuum_into, file, target)
        return
    async with Database.open(sqlite_url(target)) as copy:
        await copy_rows(database, copy)


def _vacuum_into(file: Path, target: Path) -> None:
    """One read transaction, beside which others write."""
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        connection.execute("PRAGMA busy_timeout=10000")
        connection.execute("VACUUM INTO ?", (str(target),))
    finally:
        connection.close()


async def copy_rows(source: Database, target: Database) -> None:
    """All rows, as they are at one moment. What is in `target` goes."""
    async with source.read(isolated=True) as reading, target.write() as writing:
        for table in reversed(metadata.sorted_tables):
            await writing.execute(delete(table))
        for table in metadata.sorted_tables:
            rows = await reading.stream(select(table))
            async for part in rows.mappings().partitions(ROWS):
                await writing.execute(insert(table), [dict(row) for row in part])


def sqlite_url(file: Path) -> URL:
    return URL.create("sqlite+aiosqlite", database=str(file.absolute()))
