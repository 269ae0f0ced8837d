"""The back layer as one thing: opens and closes stores, converter and cluster in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api.back.cluster.manager import ClusterManager
from api.back.conversion import Converter
from api.back.settings import BackSettings
from api.back.store.deployments import DeploymentStore
from api.back.store.models import ModelStore
from api.back.store.tasks import TaskStore


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
        """Everything up: the schema, Triton, and the deployments of the last run, loading or loaded.

        Leaving it drains and ends every process that it started.
        """
        raise NotImplementedError
        yield
