"""The stores as `Backend.open` lays them, without a cluster: real SQLite, real blobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from api.back.conversion import Converter
from api.back.settings import BackSettings
from api.back.store.blobs import BlobStore
from api.back.store.database import Database
from api.back.store.deployments import DeploymentStore
from api.back.store.models import ModelStore
from api.back.store.records import now
from api.back.store.tasks import TaskStore
from export.archive import ArchiveLimits


@dataclass(frozen=True)
class Stores:
    database: Database
    blobs: BlobStore
    models: ModelStore
    tasks: TaskStore
    deployments: DeploymentStore
    converter: Converter
    settings: BackSettings

    def blob_files(self) -> set[str]:
        """The blobs that lie on the disk, by sha256."""
        return {path.name for path in self.settings.blobs.rglob("*") if path.is_file()}


@asynccontextmanager
async def open_stores(settings: BackSettings, clock: Callable[[], datetime] = now) -> AsyncIterator[Stores]:
    settings.home.mkdir(exist_ok=True)
    retention = timedelta(days=settings.task_retention_days)
    async with (
        Database.open(settings.database) as database,
        TaskStore.open(database, retention, clock) as tasks,
    ):
        blobs = BlobStore.open(settings.blobs, None)
        limits = ArchiveLimits(max_unpacked_bytes=settings.max_unpacked_bytes)
        models = ModelStore(database, blobs, max_archive_bytes=settings.max_archive_bytes, limits=limits)
        await models.recover()
        converter = Converter(settings, models)
        yield Stores(database, blobs, models, tasks, DeploymentStore(database), converter, settings)
