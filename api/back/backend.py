"""The back layer as one thing: opens and closes stores, converter and cluster in order."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta

from api.back.cluster.installation import Installation
from api.back.cluster.manager import ClusterManager
from api.back.cluster.preflight import find_problems
from api.back.cluster.triton_process import assemble_backends, end_leftovers
from api.back.conversion import Converter
from api.back.settings import BackSettings
from api.back.store.blobs import BlobStore
from api.back.store.database import Database
from api.back.store.deployments import DeploymentStore
from api.back.store.models import ModelStore
from api.back.store.tasks import TaskStore
from api.errors import ServerFault
from export.archive import ArchiveLimits


@dataclass(frozen=True, slots=True)
class Backend:
    """What the middle layer works with."""

    models: ModelStore
    tasks: TaskStore
    deployments: DeploymentStore
    converter: Converter
    cluster: ClusterManager

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: BackSettings) -> AsyncIterator[Backend]:
        """Stores open, Triton up, and the last run's deployments loading: `cluster.readiness` says how far.

        Leaving it ends every process that it started. Raises ServerFault: what the machine lacks, a home that
        is in use, a database of a newer LMaaS, a Triton that does not start.
        """
        problems = await asyncio.to_thread(find_problems, settings)
        if problems:
            raise ServerFault("; ".join(problems))
        installation = Installation.find()
        with _only_user(settings):
            await asyncio.to_thread(_prepare_home, settings, installation)
            retention = timedelta(days=settings.task_retention_days)
            async with (
                Database.open(settings.database) as database,
                TaskStore.open(database, retention) as tasks,
            ):
                models = _model_store(settings, database)
                await models.recover()
                deployments = DeploymentStore(database)
                converter = Converter(settings, models)
                async with ClusterManager.open(settings, installation, models, deployments) as cluster:
                    yield cls(models, tasks, deployments, converter, cluster)


def _model_store(settings: BackSettings, database: Database) -> ModelStore:
    return ModelStore(
        database,
        BlobStore.open(settings.blobs, settings.blob_url),
        max_archive_bytes=settings.max_archive_bytes,
        limits=ArchiveLimits(max_unpacked_bytes=settings.max_unpacked_bytes),
    )


@contextmanager
def _only_user(settings: BackSettings) -> Iterator[None]:
    """Two façades on one home would empty each other's folders; a lock dies with its process."""
    path = settings.home / "lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            user = lock.read() or "?"
            raise ServerFault(
                f"{settings.home} is in use by process {user}: stop it, or set LMAAS_HOME to another folder"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _prepare_home(settings: BackSettings, installation: Installation) -> None:
    end_leftovers(settings)
    shutil.rmtree(settings.staging, ignore_errors=True)
    settings.staging.mkdir(parents=True)
    assemble_backends(settings, installation)
