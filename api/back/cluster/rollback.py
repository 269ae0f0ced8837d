"""Takes the traffic from a canary that passed a bound, and says why in its record, the log and a metric."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from api.back.cluster.backoff import backoff_seconds
from api.back.cluster.deployment import Deployment
from api.back.store.deployments import DeploymentStore
from api.back.store.records import DeploymentState
from api.errors import NotFound, StoreUnavailable

MAX_BACKOFF_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Rollbacks:
    def __init__(self, deployments: Mapping[str, Deployment], records: DeploymentStore) -> None:
        self.counts: Counter[str] = Counter()  # by model
        self._deployments = deployments
        self._records = records
        self._recording: set[asyncio.Task[None]] = set()

    def judge(self, canary: Deployment) -> None:
        """Roll it back where its figures call for that, and another deployment can have its traffic."""
        if canary.watch is None or (fault := canary.watch.fault()) is None or not self._has_other(canary):
            return
        seconds = canary.watch.figures.seconds
        canary.remember("rolled-back", fault, traffic_weight=0, canary=None)
        canary.unrecorded = True
        self.counts[canary.record.model] += 1
        logger.warning("%s is rolled back after %.1f s: %s", canary.name, seconds, fault)
        task = asyncio.create_task(self._record(canary))
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)

    def _has_other(self, canary: Deployment) -> bool:
        return any(
            item is not canary
            and item.record.model == canary.record.model
            and item.record.traffic_weight > 0
            and item.state is DeploymentState.READY
            for item in self._deployments.values()
        )

    async def _record(self, canary: Deployment) -> None:
        """Write what holds in memory already; as often as it takes."""
        for times in itertools.count(1):
            try:
                with suppress(NotFound):  # undeployed meanwhile
                    await self._records.update(canary.status)
            except StoreUnavailable:  # noqa: PERF203 - trying again is the point
                logger.warning("the rollback of %s cannot be recorded yet; trying again later", canary.name)
                await asyncio.sleep(backoff_seconds(times, MAX_BACKOFF_SECONDS))
            else:
                canary.unrecorded = False
                return

    async def close(self) -> None:
        for task in self._recording:
            task.cancel()
        await asyncio.gather(*self._recording, return_exceptions=True)
