"""A request whose model server dies is sent again, while nothing of its answer has gone to the caller.

Inference changes nothing, so that a second try does no harm. A request that itself kills the server must not
kill every server: the number of tries is limited.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from api.back.cluster import router
from api.back.cluster.controller import first_of
from api.back.cluster.deployment import Deployment
from api.back.cluster.replica import Replica
from api.back.store.records import DeploymentState
from api.errors import Unavailable

MAX_TRIES = 3
DEADLINE = "deadline_ms"  # what the engine calls the time that a request has left

logger = logging.getLogger(__name__)


class Tries:
    """The tries of one request to a deployment. Times are monotonic seconds."""

    def __init__(
        self, deployment: Deployment, wait_seconds: float, parameters: Mapping[str, Any] | None = None
    ) -> None:
        """`wait_seconds` is the longest wait for a replica; the request's own deadline may come before it."""
        self._deployment = deployment
        self._parameters = parameters or {}
        self._begin = time.monotonic()
        self._end = self._begin + min(wait_seconds, self._parameters.get(DEADLINE, math.inf) / 1000)
        self._tries = 0

    def replica(self) -> Replica:
        """The replica for the next try. Raises Unavailable where none is ready."""
        self._tries += 1
        return router.choose_replica(self._deployment)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Those of the request, with the time that is left of its deadline now."""
        if self._tries == 1 or DEADLINE not in self._parameters:
            return self._parameters
        spent = 1000 * (time.monotonic() - self._begin)
        return {**self._parameters, DEADLINE: max(1, int(self._parameters[DEADLINE] - spent))}

    async def after(self, error: Unavailable) -> None:
        """Return when another try may succeed. Raises `error` where none may, or no time or try is left."""
        if self._tries >= MAX_TRIES or not await self._wait_for_replica():
            raise error
        logger.info("%s: a request is sent again: %s", self._deployment.name, error.detail)

    async def _wait_for_replica(self) -> bool:
        deployment = self._deployment
        while not any(replica.ready and not replica.away for replica in deployment.replicas):
            left = self._end - time.monotonic()
            if left <= 0 or deployment.state is DeploymentState.UNLOADING or not deployment.replicas:
                return False
            await first_of(*(replica.changed for replica in deployment.replicas), timeout=left)
        return time.monotonic() < self._end and deployment.state is not DeploymentState.UNLOADING
