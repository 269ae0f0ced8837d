"""A back layer with a real database, and real files, uploads and batches; the rest is in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.back.backend import Backend
from api.back.settings import BackSettings
from api.back.store.batches import BatchStore
from api.back.store.blob_lock import BlobLock
from api.back.store.blobs import BlobStore
from api.back.store.database import Database
from api.back.store.files import FileStore
from api.back.store.uploads import UploadStore
from tests.api.fakes import FakeBack


class StoredBack(FakeBack):
    """Of a façade named `worker`, which has no lease."""

    worker = "here"

    @asynccontextmanager
    async def open(self, settings: BackSettings) -> AsyncIterator[Backend]:
        async with Database.open(settings.database) as database:
            self.trainings.use(settings)
            blobs = BlobStore.open(settings.blobs, None, BlobLock(database, settings.blob_lock))
            self.batches = BatchStore(database, self.worker)
            self.models.blob_folder = settings.blobs
            async with (
                FileStore.open(database, blobs) as self.files,
                UploadStore.open(
                    settings.uploads,
                    blobs,
                    max_bytes=settings.max_archive_bytes,
                    max_uploads=settings.max_uploads,
                    retention=settings.upload_retention,
                ) as self.uploads,
            ):
                yield self.backend
                await self.templates.close()


def stored(worker: str = "here") -> StoredBack:
    """A façade with the models of `FakeBack`."""
    back = StoredBack.make()
    back.worker = worker
    return back
