"""The back layer as a whole: opens and closes stores, converter and cluster in order."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from api.back.cluster.addresses import parse_address
from api.back.cluster.cleanup import end_leftovers
from api.back.cluster.driver import ServerDriver
from api.back.cluster.following import following
from api.back.cluster.installation import Installation, assemble_backends
from api.back.cluster.local_triton import LocalTriton
from api.back.cluster.manager import ClusterManager
from api.back.cluster.preflight import find_problems
from api.back.cluster.remote_triton import RemoteTriton
from api.back.cluster.repository import ModelRepository
from api.back.cluster.server_home import ServerHome
from api.back.cluster.shared_repository import SharedRepository
from api.back.conversion import Converter
from api.back.home import make_private, only_user, worker_id
from api.back.settings import BackSettings
from api.back.store import garbage
from api.back.store.audit import AuditStore
from api.back.store.batches import BatchStore
from api.back.store.blob_lock import BlobLock
from api.back.store.blobs import BlobStore
from api.back.store.callbacks import CallbackStore
from api.back.store.database import Database
from api.back.store.deployments import DeploymentStore
from api.back.store.failures import translated
from api.back.store.files import FileStore
from api.back.store.keys import KeyStore
from api.back.store.models import ModelStore
from api.back.store.task_queue import TaskQueue
from api.back.store.task_writer import TaskWriter
from api.back.store.tasks import TaskStore
from api.back.store.uploads import UploadStore
from api.back.store.usage import UsageStore
from api.back.templates import Templates
from api.back.training import Trainings
from api.errors import ServerFault
from export.members import ArchiveLimits


@dataclass(frozen=True, slots=True)
class Backend:
    """What the middle layer works with."""

    models: ModelStore
    tasks: TaskStore
    queue: TaskQueue
    deployments: DeploymentStore
    converter: Converter
    trainings: Trainings
    cluster: ClusterManager
    keys: KeyStore
    files: FileStore
    usage: UsageStore
    audit: AuditStore
    uploads: UploadStore
    batches: BatchStore
    callbacks: CallbackStore
    templates: Templates

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: BackSettings) -> AsyncIterator[Backend]:
        """Stores open, Triton up, and the last run's deployments loading: `cluster.readiness` says how far.

        Leaving it ends every process that it started. Raises ServerFault: what the machine lacks, a home that
        is in use, a database of a newer LMaaS, a Triton that does not start; StoreUnavailable: a home that
        cannot be written, a database that is damaged.
        """
        installation = await _require_runnable(settings)
        with only_user(settings):
            with translated(settings.home, logged=False):
                worker = await asyncio.to_thread(_prepare_home, settings, installation)
            async with (
                Database.open(settings.database) as database,
                TaskWriter.open(database) as writer,
                TaskStore.open(database, writer, timedelta(days=settings.task_retention_days)) as tasks,
                UsageStore.open(database, timedelta(days=settings.usage_retention_days)) as usage,
            ):
                blobs = await _blob_store(settings, database)
                models = _model_store(settings, database, blobs)
                await models.recover()
                async with (
                    FileStore.open(database, blobs) as files,
                    _uploads(settings, blobs) as uploads,
                    garbage.collecting(database, blobs, settings.upload_retention),
                    Templates.open() as templates,
                    _cluster(settings, installation, database, models, worker) as cluster,
                ):
                    yield cls(
                        models=models,
                        tasks=tasks,
                        queue=TaskQueue(database, writer, worker),
                        deployments=DeploymentStore(database),
                        converter=Converter(settings, models),
                        trainings=Trainings(settings, models),
                        cluster=cluster,
                        keys=KeyStore(database),
                        files=files,
                        usage=usage,
                        audit=AuditStore(database, timedelta(days=settings.audit_retention_days)),
                        uploads=uploads,
                        batches=BatchStore(database, worker),
                        callbacks=CallbackStore(database),
                        templates=templates,
                    )


async def _require_runnable(settings: BackSettings) -> Installation:
    """Raises ServerFault: what the machine lacks."""
    problems = await asyncio.to_thread(find_problems, settings)
    if problems:
        raise ServerFault("; ".join(problems))
    return Installation.find()


@asynccontextmanager
async def _cluster(
    settings: BackSettings, installation: Installation, database: Database, models: ModelStore, worker: str
) -> AsyncIterator[ClusterManager]:
    """Its servers are up; other façades are followed where there may be some."""
    deployments = DeploymentStore(database)
    drivers: list[ServerDriver] = [
        *_local_servers(settings, installation, models),
        *_remote_servers(settings, models, worker),
    ]
    async with (
        ClusterManager.open(settings, drivers, models, deployments) as cluster,
        _pods(settings, cluster, models, worker),
        nullcontext() if database.is_sqlite else following(cluster, models, deployments),
    ):
        yield cluster


async def _blob_store(settings: BackSettings, database: Database) -> BlobStore:
    lock = BlobLock(database, settings.blob_lock)
    return await asyncio.to_thread(BlobStore.open, settings.blobs, settings.blob_url, lock)


def _model_store(settings: BackSettings, database: Database, blobs: BlobStore) -> ModelStore:
    return ModelStore(
        database,
        blobs,
        settings.staging,
        max_archive_bytes=settings.max_archive_bytes,
        limits=ArchiveLimits(max_unpacked_bytes=settings.max_unpacked_bytes),
    )


def _uploads(settings: BackSettings, blobs: BlobStore) -> AbstractAsyncContextManager[UploadStore]:
    return UploadStore.open(
        settings.uploads,
        blobs,
        max_bytes=settings.max_archive_bytes,
        max_uploads=settings.max_uploads,
        retention=settings.upload_retention,
    )


def _local_servers(
    settings: BackSettings, installation: Installation, models: ModelStore
) -> list[LocalTriton]:
    homes = [ServerHome(settings, number) for number in range(settings.servers)]
    return [
        LocalTriton(home, installation, ModelRepository(home.repository, settings, models)) for home in homes
    ]


def _remote_servers(settings: BackSettings, models: ModelStore, facade: str) -> list[RemoteTriton]:
    servers = []
    for endpoints in map(parse_address, settings.triton_urls):
        folder = settings.triton_repository.replace("{server}", endpoints.grpc.replace(":", "-"))
        repository = SharedRepository(Path(folder), settings, models, facade)
        device = settings.engine.device
        servers.append(RemoteTriton(endpoints, settings.triton_key, device, repository))
    return servers


def _pods(
    settings: BackSettings, cluster: ClusterManager, models: ModelStore, facade: str
) -> AbstractAsyncContextManager[None]:
    """The servers in the pods of Kubernetes, whose client is imported only where it is used."""
    if not settings.kubernetes_selector:
        return nullcontext()
    try:
        from api.back.cluster.membership import following_pods
    except ImportError as error:
        raise ServerFault(
            f"LMAAS_KUBERNETES_SELECTOR needs a package ({error}): pip install 'lmaas[kubernetes]'"
        ) from None
    return following_pods(settings, cluster, models, facade)


def _prepare_home(settings: BackSettings, installation: Installation) -> str:
    """Nothing of an earlier run is left in the way. Returns the id of this façade as a worker."""
    end_leftovers(settings)
    # Of more servers than there are now, and of releases that had one server.
    for folder in (*settings.triton.glob("triton-*"), settings.triton / "repository"):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(settings.staging, ignore_errors=True)
    settings.staging.mkdir(parents=True)
    if settings.servers:
        assemble_backends(settings, installation)
    make_private(settings.home)
    return worker_id(settings)
