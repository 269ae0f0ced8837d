"""Several façades share a database: what one of them changes, the others do with their own servers.

Each façade compares its deployments with the records every FOLLOW_SECONDS. The `replicas` of a deployment are
those of one façade.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from api.back.cluster.deployment import Deployment
from api.back.cluster.manager import ClusterManager
from api.back.store.deployments import DeploymentStore
from api.back.store.models import ModelStore
from api.back.store.records import DeploymentRecord, DeploymentState
from api.errors import StoreUnavailable

FOLLOW_SECONDS = 1.0
AGAIN_SECONDS = 30.0  # before another try, where something could not be done

logger = logging.getLogger(__name__)


@dataclass
class Differences:
    """Between the records and the deployments of this façade."""

    new: list[DeploymentRecord] = field(default_factory=list)
    gone: list[Deployment] = field(default_factory=list)
    replaced: list[tuple[Deployment, DeploymentRecord]] = field(default_factory=list)
    adjusted: list[tuple[Deployment, DeploymentRecord]] = field(default_factory=list)


def compare(
    recorded: Iterable[DeploymentRecord], present: Mapping[str, Deployment], known: Iterable[str]
) -> Differences:
    """`known` are the ids of the deployments that were there before the records were read.

    What this façade is changing itself is left out. So is what another one is still loading: it may fail.
    """
    found = Differences()
    records = {record.id: record for record in recorded}
    found.new = [
        record
        for record in records.values()
        if record.id not in present and record.state in (DeploymentState.READY, DeploymentState.IDLE)
    ]
    for deployment_id in known:
        deployment, record = present.get(deployment_id), records.get(deployment_id)
        if deployment is None or _is_changing(deployment):
            continue
        before = deployment.record
        if record is None or record.state is DeploymentState.UNLOADING:
            found.gone.append(deployment)
        elif (record.version, record.variant) != (before.version, before.variant):
            found.replaced.append((deployment, record))
        elif (asked := _as_asked(record, before)) != before:
            found.adjusted.append((deployment, asked))
    return found


def _as_asked(record: DeploymentRecord, before: DeploymentRecord) -> DeploymentRecord:
    """The record, with what this façade's own servers decide as it was before."""
    replicas = record.replicas if record.autoscale is None else before.replicas
    return dataclasses.replace(
        record, state=before.state, error=before.error, note=before.note, replicas=replicas
    )


def _is_changing(deployment: Deployment) -> bool:
    return (
        deployment.state is DeploymentState.UNLOADING
        or deployment.successor is not None
        or deployment.unrecorded
        or deployment.scaling.locked()
    )


class Follower:
    def __init__(self, cluster: ClusterManager, models: ModelStore, records: DeploymentStore) -> None:
        self._cluster = cluster
        self._models = models
        self._records = records
        self._under_way: dict[str, asyncio.Task[None]] = {}  # what is being done, by the deployment's id

    async def follow(self) -> None:
        """Begin what other façades have recorded. Raises StoreUnavailable."""
        known = [each for each in self._cluster.present if each not in self._under_way]
        await self._models.refresh()
        self._cluster.know_facades(await self._records.facades())
        recorded = [record for record in await self._records.list() if record.id not in self._under_way]
        differences = compare(recorded, self._cluster.present, known)
        for record in differences.new:
            self._begin(record.id, partial(self._cluster.restore, record))
        for deployment in differences.gone:
            self._begin(deployment.record.id, partial(self._cluster.withdraw, deployment))
        for deployment, record in differences.replaced:
            self._begin(record.id, partial(self._cluster.follow_replacement, deployment, record))
        for deployment, record in differences.adjusted:
            deployment.record = record
            self._begin(record.id, partial(self._cluster.scale, deployment, record.replicas))

    def _begin(self, deployment_id: str, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            try:
                await work()
            except Exception as error:  # a defect of one must not be the end of following
                logger.warning("%s could not be followed: %s", deployment_id, error, exc_info=True)
                await asyncio.sleep(AGAIN_SECONDS)
            finally:
                del self._under_way[deployment_id]

        self._under_way[deployment_id] = asyncio.create_task(run())

    async def run(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                await self.follow()
            except StoreUnavailable:
                logger.debug("the records of deployments cannot be read")
            except Exception:  # as above
                logger.exception("the records of deployments could not be followed")

    async def stop(self) -> None:
        for task in (under_way := list(self._under_way.values())):
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


@asynccontextmanager
async def following(
    cluster: ClusterManager, models: ModelStore, records: DeploymentStore
) -> AsyncIterator[None]:
    """While the block lasts."""
    follower = Follower(cluster, models, records)
    running = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await follower.stop()
