"""The Cluster Manager: which versions are deployed, and on which servers their replicas run."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from api.back.cluster import admission, rollout, status
from api.back.cluster.deployment import Deployment
from api.back.cluster.driver import ServerDriver
from api.back.cluster.inference import Inference
from api.back.cluster.pool import ServerPool
from api.back.cluster.precision import explain
from api.back.cluster.records import CapacityRecord, MemoryRecord, Readiness, ServerRecord
from api.back.cluster.scaling import ScalingLoop
from api.back.settings import BackSettings
from api.back.store.deployments import DeploymentStore
from api.back.store.models import ModelStore
from api.back.store.records import (
    Autoscale,
    CanaryPolicy,
    Capacity,
    DeploymentRecord,
    DeploymentState,
    VersionRecord,
)
from api.errors import Conflict, NotFound, StoreUnavailable, Unavailable


class ClusterManager(Inference):
    """Never blocks the event loop, and is used from that loop alone."""

    def __init__(
        self,
        settings: BackSettings,
        drivers: Sequence[ServerDriver],
        models: ModelStore,
        records: DeploymentStore,
    ) -> None:
        self._pool = ServerPool(settings, drivers)
        super().__init__(settings, self._pool, models, records)
        self._settings = settings
        self._records = records
        self._rollouts = rollout.Rollouts(
            self._pool, self._deployments, self._draining, settings.replace_drain_seconds
        )
        self._scaling = ScalingLoop(
            settings, self._pool.servers, self._deployments.values, self._scale_by_load
        )

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: BackSettings,
        drivers: Sequence[ServerDriver],
        models: ModelStore,
        records: DeploymentStore,
    ) -> AsyncIterator[ClusterManager]:
        """All servers are up when this is entered; the last run's deployments are loading.

        Raises ServerFault.
        """
        manager = cls(settings, drivers, models, records)
        try:
            await manager._pool.start()
            recorded = await records.list()
            await manager._pool.keep({(record.model, record.version) for record in recorded})
            for record in recorded:
                if record.state is DeploymentState.UNLOADING:
                    await records.delete(record.id)
                else:
                    await manager.restore(record)
            manager._scaling.start()
            manager._idling.start()
            yield manager
        finally:
            await manager._idling.close()
            await manager._scaling.close()
            await manager._canaries.close()
            await manager._rollouts.close()
            await manager._pool.close()

    def know_facades(self, ids: frozenset[str]) -> None:
        """Of the façades that live, this one among them; Tritons elsewhere may be shared by them."""
        self._scaling.facades = max(1, len(ids))
        for server in self._pool.servers:
            server.driver.repository.facades = ids

    async def restore(self, record: DeploymentRecord) -> None:
        version = await self._models.version(record.model, record.version)
        manifest = admission.require_manifest(version)
        note = explain(manifest, record, self._settings.budget, self._settings.engine.device)
        record = dataclasses.replace(record, state=DeploymentState.LOADING, error=None, note=note)
        deployment = Deployment(record, version, manifest)
        deployment.expected = True
        self._deployments[record.id] = deployment
        await self._pool.place(deployment, self._pool.places()[: record.replicas])

    async def deploy(
        self,
        model: str,
        version: int | str,
        precision: str,
        replicas: int = 1,
        traffic_weight: int = 100,
        *,
        autoscale: Autoscale | None = None,
        force: bool = False,
        canary: CanaryPolicy | None = None,
    ) -> DeploymentRecord:
        """Load a version on `replicas` servers, and return when each of them answered a probe.

        Where servers join while this runs, it returns when all that are here have; the others follow.

        `precision` is auto or a variant; `force` deploys one that fails the quality gate. Raises
        NotFound; InvalidInput (`precision`, `replicas`, `traffic_weight`); Conflict (deployed already, not
        ready, beyond the gate, no memory for it, undeployed while it loaded); Unavailable (too few servers
        are up); ServerFault (it does not load).
        """
        found = await self._models.version(model, version)
        self._pool.check_replicas(replicas)
        planned = self._plan(found, precision, replicas, traffic_weight, force=force)
        record = dataclasses.replace(planned, canary=canary, autoscale=autoscale)
        deployment = Deployment(record, found, admission.require_manifest(found))
        self._require_new(deployment)
        servers = await self._pool.admit(deployment, replicas)
        await self._records.add(record)  # refuses a version that is deployed
        self._deployments[record.id] = deployment
        try:
            async with deployment.scaling:
                await self._pool.grow(deployment, servers)
            with suppress(StoreUnavailable):  # the record says "loading", from which a start restores it too
                await self._records.update(deployment.status)
        except BaseException:
            await self.withdraw(deployment)
            raise
        return deployment.status

    def _plan(
        self, version: VersionRecord, precision: str, replicas: int, traffic_weight: int, *, force: bool
    ) -> DeploymentRecord:
        """Raises InvalidInput, Conflict."""
        gate, device = self._settings.budget, self._settings.engine.device
        return admission.plan(
            version, precision, replicas, traffic_weight, gate=gate, device=device, force=force
        )

    def _require_new(self, planned: Deployment, beside: Deployment | None = None) -> None:
        """Raises Conflict where that version is deployed, other than as `beside`."""
        for other in self._deployments.values():
            if other is not beside and other.version == planned.version:
                raise Conflict(f"{other.name} is deployed already, as {other.record.id!r}")

    async def replace(
        self,
        deployment_id: str,
        version: int | str | None = None,
        precision: str | None = None,
        *,
        force: bool = False,
    ) -> DeploymentRecord:
        """Put another version or precision in the deployment's place, without a request that fails.

        Returns when the new one takes the traffic; the old one then has `replace_drain_seconds` for its
        requests. None: as it is. Raises as `deploy`, and NotFound for the deployment; where it raises, the
        old one serves as before.
        """
        current = self._find(deployment_id)
        before = current.record
        found = await self._models.version(before.model, before.version if version is None else version)
        planned = self._plan(
            found, precision or before.precision_asked, before.replicas, before.traffic_weight, force=force
        )
        if (planned.version, planned.variant) == (before.version, before.variant):
            return current.status
        record = rollout.successor_record(before, planned)
        successor = Deployment(record, found, admission.require_manifest(found))
        self._require_new(successor, beside=current)
        await self._replace(current, successor, self._records)
        return successor.status

    async def follow_replacement(self, current: Deployment, record: DeploymentRecord) -> None:
        """Put in the place of `current` what another façade has put there, as the record says."""
        version = await self._models.version(record.model, record.version)
        successor = Deployment(record, version, admission.require_manifest(version))
        await self._replace(current, successor, None)

    async def _replace(
        self, current: Deployment, successor: Deployment, records: DeploymentStore | None
    ) -> None:
        """An idle deployment is loaded first where it can be: it serves until the new one is ready."""
        with suppress(Unavailable):
            await self._idling.end(current)
        await self._rollouts.replace(current, successor, records)

    async def adjust(
        self,
        deployment_id: str,
        *,
        replicas: int | None = None,
        traffic_weight: int | None = None,
        capacity: Capacity | None = None,
        canary: CanaryPolicy | None = None,
        ends_canary: bool = False,
        autoscale: Autoscale | None = None,
    ) -> DeploymentRecord:
        """Change what is given; `ends_canary` ends the watch on it, and leaves its weight.

        `replicas` without `autoscale` ends scaling by load.

        Raises NotFound, InvalidInput, and for more replicas as `deploy`.
        """
        deployment = self._find(deployment_id)
        if replicas is not None:
            self._pool.check_replicas(replicas)
        if traffic_weight is not None:
            admission.check_traffic_weight(traffic_weight)
        if capacity is not None and capacity.replicas is None:
            capacity = dataclasses.replace(capacity, replicas=max(1, len(deployment.replicas)))
        given = {"traffic_weight": traffic_weight, "capacity": capacity, "autoscale": autoscale}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if replicas is not None and autoscale is None and deployment.record.autoscale is not None:
            changes["autoscale"] = None
        if changes:
            await self._change(deployment, changes)
        if canary is not None or ends_canary:
            await self._change(deployment, {"canary": canary})
        if replicas is not None:
            await self.scale(deployment, replicas)
        return deployment.status

    async def _change(self, deployment: Deployment, changes: Mapping[str, Any]) -> None:
        await self._records.update(dataclasses.replace(deployment.status, **changes))
        deployment.record = dataclasses.replace(deployment.record, **changes)

    async def _scale_by_load(self, deployment: Deployment, replicas: int) -> None:
        """The number is not recorded: another façade has its own servers, and its own load."""
        await self.scale(deployment, replicas, recorded=False)
        await self._report("autoscaler", "scale", deployment.record, str(replicas))

    async def scale(self, deployment: Deployment, replicas: int, *, recorded: bool = True) -> None:
        """Have as many replicas as asked for. A replica that does not load is removed again."""
        async with deployment.scaling:
            rollout.require_present(deployment)
            if self._deployments.get(deployment.record.id) is not deployment:
                raise rollout.under_way(deployment)  # it has been replaced while this call waited
            before = list(deployment.replicas)
            # An idle one is loaded with as many by the next request.
            if replicas > len(before) and not deployment.idle:
                await self._pool.add(deployment, replicas - len(before))
            if replicas != deployment.record.replicas and recorded:
                await self._change(deployment, {"replicas": replicas})
            deployment.record = dataclasses.replace(deployment.record, replicas=replicas)
            if replicas < len(before):
                leaving = self._pool.least_useful(before)[: len(before) - replicas]
                await asyncio.shield(self._pool.shrink(deployment, leaving))

    async def undeploy(self, deployment_id: str) -> None:
        """Take no new requests, wait up to `unload_wait_seconds` for running ones, unload.

        Raises NotFound, Conflict, StoreUnavailable.
        """
        deployment = self._find(deployment_id)
        if deployment.removal is not None and not deployment.removal.done():
            raise Conflict(f"deployment {deployment_id!r} is being undeployed already")
        # On record first: what is half undeployed must not come back with the next start.
        leaving = dataclasses.replace(deployment.status, state=DeploymentState.UNLOADING)
        await self._records.update(leaving)
        await self.withdraw(self._find(deployment_id))  # it may have been replaced meanwhile

    async def withdraw(self, deployment: Deployment) -> None:
        """Remove it, once. The removal goes on where its caller is cancelled."""
        deployment.leave()
        if deployment.removal is None or deployment.removal.done():
            deployment.removal = asyncio.create_task(self._remove(deployment))
        await asyncio.shield(deployment.removal)

    async def _remove(self, deployment: Deployment) -> None:
        async with deployment.scaling:
            await self._pool.shrink(deployment, list(deployment.replicas))
            if (before := deployment.predecessor) is not None:
                await self._pool.shrink(before, list(before.replicas))
        with suppress(NotFound):
            await self._records.delete(deployment.record.id)
        self._deployments.pop(deployment.record.id, None)

    @property
    def present(self) -> Mapping[str, Deployment]:
        """The deployments by id, oldest first."""
        return self._deployments

    @property
    def pool(self) -> ServerPool:
        return self._pool

    def _find(self, deployment_id: str) -> Deployment:
        if deployment_id not in self._deployments:
            raise NotFound(f"deployment {deployment_id!r} does not exist")
        return self._deployments[deployment_id]

    def deployments(self) -> list[DeploymentRecord]:
        """All deployments with their present state, oldest first."""
        return [deployment.status for deployment in self._deployments.values()]

    async def memory(self, version: VersionRecord) -> MemoryRecord:
        """What a replica of each of its variants needs. Raises Conflict (not ready), Unavailable."""
        return await self._pool.memory(admission.require_manifest(version))

    def servers(self) -> list[ServerRecord]:
        """The pool as it is now."""
        return [self._pool.record(server) for server in self._pool.servers]

    def drain_server(self, name: str, draining: bool) -> ServerRecord:
        """Let a server take no new replicas, and requests only where no other replica can; or end that.

        Raises NotFound.
        """
        server = self._pool.find(name)
        server.draining = draining
        return self._pool.record(server)

    def capacity(self) -> list[CapacityRecord]:
        """What each deployment is asked for, what it can do, and what is missing."""
        return self._scaling.records()

    async def engine_metrics(self) -> str:
        """The lmaas_* lines of all servers, in Prometheus' text format; without those that are away."""
        return await self._pool.engine_metrics()

    @property
    def rollbacks(self) -> Mapping[str, int]:
        """How many canaries lost their traffic, by model."""
        return self._canaries.rollbacks

    def readiness(self) -> Readiness:
        """Whether each deployment that ever served answered a probe inference lately, and if not, why."""
        pool, deployments = self._pool, list(self._deployments.values())
        return status.readiness(deployments, pool.servers, self._settings, pool.why_missing())
