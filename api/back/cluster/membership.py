"""Takes the Tritons of Kubernetes' pods into the cluster as they come, and drops those that are gone.

A pod joins when Kubernetes finds it ready. When it is about to end, its replicas move to other servers that
have room. When it is gone, its server waits GONE_SECONDS for the next pod of that name, and is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from api.back.cluster.controller import first_of
from api.back.cluster.deployment import Deployment
from api.back.cluster.kubernetes_api import KubernetesApi
from api.back.cluster.manager import ClusterManager
from api.back.cluster.pod_triton import PodReplacement, PodTriton
from api.back.cluster.pods import PodDirectory
from api.back.cluster.shared_repository import SharedRepository
from api.back.cluster.supervisor import Supervisor
from api.back.settings import BackSettings
from api.back.store.models import ModelStore

GONE_SECONDS = 60.0  # a StatefulSet makes a pod of the same name in this time, or it became smaller
RETRY_SECONDS = 5.0
LOOK_SECONDS = 1.0  # between two looks, where no pod changes

logger = logging.getLogger(__name__)


class Membership:
    def __init__(
        self, cluster: ClusterManager, directory: PodDirectory, make: Callable[[str], PodTriton]
    ) -> None:
        """`make` makes the driver of a pod's Triton."""
        self._cluster = cluster
        self._pool = cluster.pool
        self._directory = directory
        self._make = make
        self._servers: dict[str, Supervisor] = {}  # those of pods, by name
        self._gone: dict[str, float] = {}  # since when a server has no pod, in monotonic seconds
        self._not_before: dict[str, float] = {}  # when a pod that could not join may, in monotonic seconds
        self._leaving: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            changed = self._directory.changed
            try:
                await self._look()
            except Exception:  # a defect of one pod must not be the end of following
                logger.exception("the pods could not be followed")
                await asyncio.sleep(RETRY_SECONDS)
            await first_of(changed, timeout=LOOK_SECONDS)

    async def _look(self) -> None:
        now, pods = time.monotonic(), self._directory.pods
        for name, server in list(self._servers.items()):
            if name in pods:
                self._gone.pop(name, None)
            elif now - self._gone.setdefault(name, now) > GONE_SECONDS:
                await self._drop(name, server)
        names = {server.name for server in self._pool.servers}
        may_join = [pod.name for pod in pods.values() if pod.ready and not pod.ending]
        joining = [name for name in may_join if name not in names and self._not_before.get(name, 0.0) <= now]
        for name in joining:
            try:
                await self._join(name)
            except Exception:  # noqa: PERF203 - of its folder: the other pods can still join
                logger.exception("pod %s cannot join; trying again", name)
                self._not_before[name] = now + RETRY_SECONDS
        leaving = {name for name, server in self._servers.items() if server.driver.leaving}
        if joining or leaving != self._leaving:
            self._leaving = leaving
            for deployment in list(self._cluster.present.values()):
                self._begin(self._fill(deployment))

    async def _join(self, name: str) -> None:
        versions = {deployment.version for deployment in self._cluster.present.values()}
        server = await self._pool.join(self._make(name), versions)
        self._servers[name] = server
        logger.info("pod %s joins the cluster", name)
        server.keep()

    async def _drop(self, name: str, server: Supervisor) -> None:
        del self._servers[name], self._gone[name]
        lost = await self._pool.drop(server)
        for deployment in list(self._cluster.present.values()):
            for each in (deployment, deployment.successor, deployment.predecessor):
                if each is not None:
                    each.replicas = [replica for replica in each.replicas if replica not in lost]
        logger.info("pod %s left the cluster", name)

    async def _fill(self, deployment: Deployment) -> None:
        """Give it the replicas that it lacks as far as there are servers, and end those that they replace."""
        async with deployment.scaling:
            present = self._cluster.present.get(deployment.record.id) is deployment
            if not present or deployment.removal is not None or deployment.successor is not None:
                return
            if deployment.idle:
                return
            leaving = [replica for replica in deployment.replicas if replica.server.driver.leaving]
            missing = deployment.record.replicas - len(deployment.replicas) + len(leaving)
            before = len(deployment.replicas)
            await self._pool.place(deployment, self._pool.free(deployment)[: max(0, missing)])
            added = deployment.replicas[before:]
            for replica in added:
                await replica.settled.wait()
            surplus = sum(replica.ready for replica in added) + before - deployment.record.replicas
            await self._pool.shrink(deployment, leaving[: max(0, surplus)])

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def first(self) -> None:
        """Return when a server is up, a pod's or another one. Until then the log says what is missing."""
        said = ""
        while not any(server.up for server in self._pool.servers):
            if said != (missing := self._directory.missing() or "it does not answer yet"):
                said = missing
                logger.info("waiting for a Triton: %s", missing)
            await asyncio.sleep(LOOK_SECONDS / 10)

    async def close(self) -> None:
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def following_pods(
    settings: BackSettings, cluster: ClusterManager, models: ModelStore, facade: str
) -> AsyncIterator[None]:
    """While the block lasts. Raises ServerFault where the API server refuses.

    Without any deployment it begins once a server is up, because the first deployments need one. Else it
    begins at once: what needs no server is answered, and readiness says what is missing.
    """
    async with KubernetesApi.open(settings.kubernetes_namespace) as api:
        directory = PodDirectory(api, settings.kubernetes_selector)
        replacement = PodReplacement(api)

        def make(name: str) -> PodTriton:
            folder = Path(settings.triton_repository.replace("{server}", name))
            repository = SharedRepository(folder, settings, models, facade)
            device = settings.engine.device
            return PodTriton(name, directory, replacement, settings.triton_key, device, repository)

        async with directory.following():
            cluster.pool.elastic, cluster.pool.why_missing = True, directory.missing
            membership = Membership(cluster, directory, make)
            running = asyncio.create_task(membership.run())
            try:
                if not cluster.present:
                    await membership.first()
                yield
            finally:
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running
                await membership.close()
