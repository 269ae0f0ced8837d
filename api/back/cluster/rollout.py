"""Rolling replacement: a deployment gets another version or precision while it serves.

As with a Deployment of Kubernetes, the id stays, and the old version serves until the new one is ready:

load the new one beside the old one -> golden prompts and a probe are good -> record it -> all new requests
go to it -> the old one ends its requests -> it is removed

Before the record nothing has changed for callers, and any failure removes the new one again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Sequence

from api.back.cluster.deployment import Deployment
from api.back.cluster.pool import ServerPool
from api.back.cluster.replica import Replica
from api.back.cluster.supervisor import Supervisor
from api.back.store.deployments import DeploymentStore
from api.back.store.records import DeploymentRecord, DeploymentState
from api.errors import Conflict

# A task may send several requests one after the other to the deployment that it chose; the pauses between
# them are far shorter than this.
QUIET_SECONDS = 1.0

logger = logging.getLogger(__name__)


def successor_record(current: DeploymentRecord, planned: DeploymentRecord) -> DeploymentRecord:
    """What `planned` says of version and precision; everything else, and the id, is that of `current`.

    A capacity and a canary's policy are dropped: they are about what is being replaced.
    """
    return dataclasses.replace(
        current,
        version=planned.version,
        precision_asked=planned.precision_asked,
        variant=planned.variant,
        note=planned.note,
        state=DeploymentState.LOADING,
        error=None,
        capacity=None,
        canary=None,
    )


class Rollouts:
    """Replacements under way. `deployments` are those that take requests, by id."""

    def __init__(
        self, pool: ServerPool, deployments: dict[str, Deployment], draining: list[Deployment], seconds: float
    ) -> None:
        """`draining`: those that were replaced, and have `seconds` to end the tasks that had chosen them."""
        self._pool = pool
        self._deployments = deployments
        self._draining = draining
        self._seconds = seconds
        self._retiring: set[asyncio.Task[None]] = set()

    async def replace(
        self, current: Deployment, successor: Deployment, records: DeploymentStore | None
    ) -> None:
        """Load `successor` beside `current`, and then let it take the traffic. None: it is recorded already.

        Raises as ClusterManager.deploy; `current` then serves as before.
        """
        successor.expected, successor.share = True, current.share
        await _bring_up(current, successor, self._pool, records)
        # No await from here on: a request finds the one or the other.
        self._deployments[successor.record.id] = successor
        current.successor, successor.predecessor = None, current
        self._draining.append(current)
        retiring = asyncio.create_task(self._retire(current, successor))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        logger.info(
            "%s in %s took the place of %s", successor.name, successor.record.variant.value, current.name
        )

    async def _retire(self, replaced: Deployment, successor: Deployment) -> None:
        """Let what was replaced end its requests, and remove it."""
        try:
            await until_idle(replaced.replicas, self._seconds)
            replaced.leave()
            await self._pool.shrink(replaced, list(replaced.replicas))
        finally:
            self._draining.remove(replaced)
            successor.predecessor = None

    async def close(self) -> None:
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)


async def _bring_up(
    current: Deployment, successor: Deployment, pool: ServerPool, records: DeploymentStore | None
) -> None:
    """Load `successor` beside `current`, and record it in `records`. It is removed again where that fails.

    Raises as ClusterManager.deploy; Conflict also where `current` is undeployed meanwhile.
    """
    if current.successor is not None:
        raise under_way(current)
    current.successor = successor
    try:
        async with current.scaling:
            require_present(current)
            await pool.grow(successor, await _servers(current, successor, pool))
            # What changed meanwhile, as the traffic weight, holds for the new one too.
            successor.record = successor_record(current.record, successor.record)
            if records is not None:
                successor.remember("replaced", f"{current.name} in {current.record.variant.value}")
                await records.update(successor.status)
            require_present(current)
    except BaseException as error:
        logger.warning("%s goes on, %s is not put in its place: %s", current.name, successor.name, error)
        successor.leave()
        await asyncio.shield(pool.shrink(successor, list(successor.replicas)))
        current.successor = None
        raise


async def _servers(current: Deployment, successor: Deployment, pool: ServerPool) -> list[Supervisor]:
    try:
        return await pool.admit(successor, successor.record.replicas)
    except Conflict as error:
        going = current.predecessor
        if going is not None and going.version == successor.version:
            raise Conflict(
                f"{going.name} still ends the requests that it had when {current.name} took its place: "
                "try again when that is done"
            ) from None
        raise Conflict(
            f"{successor.name} in {successor.record.variant.value} does not fit beside {current.name} in "
            f"{current.record.variant.value}, which serves until it is ready: {error.detail}"
        ) from None


def under_way(current: Deployment) -> Conflict:
    """Raised for what cannot be done meanwhile."""
    return Conflict(f"deployment {current.record.id!r} is being replaced; try again when that is done")


def require_present(current: Deployment) -> None:
    """Raises Conflict."""
    if current.state is DeploymentState.UNLOADING:
        raise Conflict(f"deployment {current.record.id!r} is being undeployed")


async def until_idle(replicas: Sequence[Replica], seconds: float) -> None:
    """Return when no request was in flight for QUIET_SECONDS, or after `seconds`."""
    end, before = time.monotonic() + seconds, None
    while time.monotonic() < end:
        turns = [replica.last_turn for replica in replicas]
        if turns == before and not any(replica.in_flight for replica in replicas):
            return
        before = turns
        await asyncio.sleep(QUIET_SECONDS)
    logger.warning("%s requests did not end within %g s", sum(item.in_flight for item in replicas), seconds)
