"""Deployments that no request comes for give their memory back, and the next request loads them again.

ready -- no request for `idle_unload_seconds` --> idle -- a request --> loading -- a probe answers --> ready

An idle deployment keeps its record and its number of replicas. Probes are no requests. Where façades share
their Tritons, each unloads for itself: the model leaves a Triton once none of them uses it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from api.back.cluster.deployment import Deployment
from api.back.cluster.messages import RETRY_SECONDS
from api.back.cluster.pool import ServerPool
from api.back.store.records import DeploymentState
from api.errors import ApiError, Unavailable

LOOK_SECONDS = 1.0
SLOWER = 4  # a request waits this many times as long as the load took the last time,
LEAST_WAIT_SECONDS = 5.0  # and at least this long

logger = logging.getLogger(__name__)


class Idling:
    """Belongs to one event loop. `deployments` are those that take requests, by id."""

    def __init__(self, pool: ServerPool, deployments: Mapping[str, Deployment], seconds: float) -> None:
        """`seconds` without a request are enough to be idle; 0: never."""
        self._pool = pool
        self._deployments = deployments
        self._seconds = seconds
        # Requests that had come, and since when (monotonic seconds) no other one has.
        self._seen: WeakKeyDictionary[Deployment, tuple[int, float]] = WeakKeyDictionary()
        self._loads: WeakKeyDictionary[Deployment, asyncio.Task[None]] = WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        if self._seconds:
            self._begin(self._run())

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ApiError):
            logger.error("an idle deployment cannot be watched, unloaded or loaded", exc_info=error)

    async def _run(self) -> None:
        while True:
            for deployment in list(self._deployments.values()):
                if self._is_unused(deployment, time.monotonic()):
                    self._begin(self._unload(deployment))
            await asyncio.sleep(min(LOOK_SECONDS, self._seconds))

    def _is_unused(self, deployment: Deployment, now: float) -> bool:
        """No request came or ran for as long as it takes, and nothing changes it."""
        arrivals = deployment.traffic.arrivals
        before, since = self._seen.get(deployment, (-1, now))
        changes = deployment.scaling.locked() or deployment.successor or deployment.predecessor
        if arrivals != before or changes or not _rests(deployment):
            self._seen[deployment] = arrivals, now
            return False
        return now - since >= self._seconds

    async def _unload(self, deployment: Deployment) -> None:
        async with deployment.scaling:
            present = self._deployments.get(deployment.record.id) is deployment
            arrivals, _ = self._seen[deployment]
            if not present or arrivals != deployment.traffic.arrivals or not _rests(deployment):
                return
            deployment.become_idle()
            logger.info("%s is unloaded: no request came for %g s", deployment.name, self._seconds)
            await asyncio.shield(self._pool.shrink(deployment, list(deployment.replicas)))

    async def end(self, deployment: Deployment) -> float:
        """Return when an idle deployment is loaded, with the seconds that it took; at once where it is not.

        One load serves all that wait. Raises Unavailable where it takes far longer than the last time, or is
        not possible; the load goes on.
        """
        if not deployment.idle:
            return 0.0
        began = time.monotonic()
        if deployment not in self._loads or self._loads[deployment].done():
            self._loads[deployment] = self._begin(self._load(deployment))
        load = self._loads[deployment]
        limit = max(LEAST_WAIT_SECONDS, SLOWER * deployment.load_seconds)
        await asyncio.wait({load}, timeout=limit)
        if not load.done():
            deployment.traffic.missed += 1
            raise Unavailable(f"{deployment.name} was idle, and is being loaded", RETRY_SECONDS)
        if (error := load.exception()) is not None:
            deployment.traffic.missed += 1
            detail = error.detail if isinstance(error, ApiError) else "a defect; the log says more"
            raise Unavailable(
                f"{deployment.name} is idle, and cannot be loaded: {detail}", RETRY_SECONDS
            ) from None
        return time.monotonic() - began

    async def _load(self, deployment: Deployment) -> None:
        """Raises Conflict (no memory for it), Unavailable (undeployed or replaced, no server)."""
        began = time.monotonic()
        async with deployment.scaling:
            here = self._deployments.get(deployment.record.id) is deployment
            if not here or deployment.state is DeploymentState.UNLOADING:
                raise Unavailable(f"{deployment.name} was undeployed or replaced")
            servers = await self._pool.admit(deployment, deployment.record.replicas)
            await self._pool.place(deployment, servers)
            for replica in list(deployment.replicas):
                await replica.settled.wait()
            deployment.idle, deployment.expected = False, True
        seconds = time.monotonic() - began
        logger.info("%s was idle and was loaded for a request in %.1f s", deployment.name, seconds)


def _rests(deployment: Deployment) -> bool:
    """It could take a request, and has none."""
    runs = any(replica.in_flight for replica in deployment.replicas)
    return deployment.state is DeploymentState.READY and not runs
