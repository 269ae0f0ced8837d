"""The stores as `Backend.open` lays them, without a cluster: a real database, real blobs."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from api.back.conversion import Converter
from api.back.settings import BackSettings
from api.back.store.blob_lock import BlobLock
from api.back.store.blobs import BlobStore
from api.back.store.database import Database
from api.back.store.deployments import DeploymentStore
from api.back.store.models import ModelStore
from api.back.store.records import now
from api.back.store.task_queue import TaskQueue
from api.back.store.task_writer import TaskWriter
from api.back.store.tasks import TaskStore
from export.members import ArchiveLimits


@dataclass(frozen=True)
class Stores:
    database: Database
    blobs: BlobStore
    models: ModelStore
    tasks: TaskStore
    writer: TaskWriter
    queue: TaskQueue
    deployments: DeploymentStore
    converter: Converter
    settings: BackSettings

    def blob_files(self) -> set[str]:
        """The blobs that are there, by sha256."""
        return {blob.sha256 for blob in self.blobs._all()}


def file_of(settings: BackSettings) -> Path:
    """The database."""
    return settings.home / "lmaas.db"


@contextmanager
def locked(settings: BackSettings) -> Iterator[None]:
    """Another connection, as of another process, holds a write transaction."""
    other = sqlite3.connect(file_of(settings), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


_EMPTY: list[bytes] = []


async def empty_database() -> bytes:
    """SQLite's file of a new database. The revisions make it once, and not for each test."""
    if not _EMPTY:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "lmaas.db"
            async with Database.open(f"sqlite+aiosqlite:///{file}"):
                pass
            _EMPTY.append(file.read_bytes())
    return _EMPTY[0]


@asynccontextmanager
async def open_stores(
    settings: BackSettings, clock: Callable[[], datetime] = now, worker: str = "here"
) -> AsyncIterator[Stores]:
    settings.home.mkdir(exist_ok=True)
    if settings.database_url is None and not file_of(settings).exists():
        file_of(settings).write_bytes(await empty_database())
    retention = timedelta(days=settings.task_retention_days)
    async with (
        Database.open(settings.database) as database,
        TaskWriter.open(database) as writer,
        TaskStore.open(database, writer, retention, clock) as tasks,
    ):
        blobs = BlobStore.open(settings.blobs, settings.blob_url, BlobLock(database, settings.blob_lock))
        limits = ArchiveLimits(max_unpacked_bytes=settings.max_unpacked_bytes)
        settings.staging.mkdir(exist_ok=True)
        models = ModelStore(
            database, blobs, settings.staging, max_archive_bytes=settings.max_archive_bytes, limits=limits
        )
        await models.recover()
        converter = Converter(settings, models)
        queue = TaskQueue(database, writer, worker, clock=clock)
        deployments = DeploymentStore(database)
        yield Stores(database, blobs, models, tasks, writer, queue, deployments, converter, settings)
