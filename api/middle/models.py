"""Models, versions and their deployments, as the routes and the bring-up work with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from api.back.cluster.manager import ClusterManager
from api.back.cluster.records import MemoryRecord
from api.back.store.archives import ArchiveDownload
from api.back.store.models import ModelStore
from api.back.store.records import (
    AuditRecord,
    Autoscale,
    CanaryPolicy,
    Capacity,
    DeploymentRecord,
    ModelRecord,
    Received,
    VersionRecord,
)
from api.back.store.uploads import UploadStore
from api.caller import Caller
from api.errors import Cancelled, Conflict, NotFound
from api.middle.accounts import Accounts
from api.middle.handlers.convert import ConvertHandler
from api.middle.job import Job
from api.middle.schemas.convert import ConvertParameters
from api.middle.tasks import TaskManager
from runtime.calibration import Calibration


class Models:
    """What is stored, and what is served."""

    def __init__(
        self,
        store: ModelStore,
        uploads: UploadStore,
        cluster: ClusterManager,
        tasks: TaskManager,
        accounts: Accounts,
        default_precision: str,
    ) -> None:
        self._store = store
        self._uploads = uploads
        self._cluster = cluster
        self._tasks = tasks
        self._accounts = accounts
        self._default_precision = default_precision

    async def list_models(self) -> list[ModelRecord]:
        """By name."""
        return await self._store.list()

    async def get(self, name: str) -> ModelRecord:
        """Raises NotFound."""
        return await self._store.get(name)

    async def version(self, name: str, version: int | str) -> VersionRecord:
        """By number or alias. Raises NotFound."""
        return await self._store.version(name, version)

    async def memory(self, name: str, version: int | str) -> MemoryRecord:
        """What a replica of each variant needs. Raises NotFound, Conflict, Unavailable."""
        return await self._cluster.memory(await self._store.version(name, version))

    async def archive(self, name: str, version: int | str) -> ArchiveDownload:
        """The artifact of a version. Raises NotFound, Conflict."""
        return await self._store.archive(name, version)

    async def update(
        self, caller: Caller, name: str, *, description: str | None, aliases: Mapping[str, int | None] | None
    ) -> ModelRecord:
        """Raises NotFound, InvalidInput."""
        record = await self._store.update(name, description=description, aliases=aliases)
        for alias, version in (aliases or {}).items():
            outcome = "removed" if version is None else str(version)
            await self._accounts.record_model(caller, "alias", name, f"aliases/{alias}", outcome)
        return record

    async def calibrate(
        self, name: str, version: int | str, calibration: Calibration | None, caller: Caller
    ) -> VersionRecord:
        """Correct the scores of a version from now on; None: no longer.

        Raises NotFound, Conflict.
        """
        record = await self._store.version(name, version)
        await self._store.calibrations.set(record, calibration)
        outcome = "removed" if calibration is None else f"temperature {calibration.temperature:g}"
        await self._accounts.record_model(caller, "calibrate", name, f"versions/{record.version}", outcome)
        return await self._store.version(name, record.version)

    async def add_upload(
        self, name: str, archive: Path, filename: str, sha256: str | None = None
    ) -> tuple[VersionRecord, bool]:
        """The version that the archive is, and whether it is new. Raises InvalidInput, TooLarge."""
        return await self._store.add_upload(name, archive, filename, sha256)

    async def add_blob(self, name: str, sha256: str) -> tuple[VersionRecord, bool]:
        """As `add_upload`, of an archive that was sent before. Raises NotFound, InvalidInput, TooLarge."""
        return await self._store.add_blob(name, sha256)

    async def received(self, sha256: str) -> Received:
        """How much of a blob is here. Raises StoreUnavailable."""
        return await self._uploads.received(sha256)

    async def receive(
        self, sha256: str, start: int, total: int | None, part: AsyncIterator[bytes]
    ) -> Received:
        """Append a part of a blob. Raises as UploadStore.receive."""
        return await self._uploads.receive(sha256, start, total, part)

    async def convert(self, parameters: ConvertParameters, caller: Caller) -> Job:
        """The task that converts a version: the one under way for it, where it was asked for the same.

        Raises as TaskManager.enqueue.
        """
        for job in self._tasks.find(ConvertHandler.task_type, parameters.model):
            if job.parameters == parameters:
                return job
        return await self._tasks.enqueue(ConvertHandler.task_type, parameters, caller)

    async def delete(self, name: str, caller: Caller, *, force: bool) -> None:
        """Delete a model with all its versions; `force` undeploys them. Raises NotFound, Conflict."""
        await self._store.get(name)
        await self._release(name, None, caller, force=force)
        await self._store.delete(name)
        await self._accounts.record_model(caller, "delete", name, "versions/*", "done")

    async def delete_version(self, name: str, version: int | str, caller: Caller, *, force: bool) -> None:
        """Delete one version; `force` undeploys it. Raises NotFound, Conflict."""
        record = await self._store.version(name, version)
        await self._release(name, record.version, caller, force=force)
        await self._store.delete_version(name, record.version)
        await self._accounts.record_model(caller, "delete", name, f"versions/{record.version}", "done")

    def deployments(self, model: str | None = None) -> list[DeploymentRecord]:
        """All, or those of one model."""
        return [record for record in self._cluster.deployments() if model in (None, record.model)]

    def context_length(self, model: str) -> int | None:
        """Tokens that the context of every deployment of the model holds; None where there is none."""
        return min((target.context_length for target in self._cluster.targets(model)), default=None)

    def deployment(self, deployment_id: str) -> DeploymentRecord:
        """Raises NotFound."""
        for record in self._cluster.deployments():
            if record.id == deployment_id:
                return record
        raise NotFound(f"no deployment {deployment_id!r}; GET /v1/deployments lists them")

    async def deploy(
        self,
        caller: Caller,
        model: str,
        version: int | str,
        precision: str | None,
        replicas: int,
        traffic_weight: int,
        *,
        force: bool,
        canary: CanaryPolicy | None = None,
        autoscale: Autoscale | None = None,
    ) -> DeploymentRecord:
        """`precision` None: the default of this server. Raises as ClusterManager.deploy."""
        precision = precision or self._default_precision
        record = await self._cluster.deploy(
            model,
            version,
            precision,
            replicas,
            traffic_weight,
            autoscale=autoscale,
            force=force,
            canary=canary,
        )
        await self._record("deploy", record, caller)
        return record

    async def adjust(
        self,
        caller: Caller,
        deployment_id: str,
        *,
        replicas: int | None,
        traffic_weight: int | None,
        capacity: Capacity | None,
        canary: CanaryPolicy | None = None,
        ends_canary: bool = False,
        autoscale: Autoscale | None = None,
    ) -> DeploymentRecord:
        """None: as it is. Raises as ClusterManager.adjust."""
        before = self.deployment(deployment_id)
        record = await self._cluster.adjust(
            before.id,
            replicas=replicas,
            traffic_weight=traffic_weight,
            capacity=capacity,
            canary=canary,
            ends_canary=ends_canary,
            autoscale=autoscale,
        )
        if replicas is not None:
            await self._record("scale", record, caller, str(replicas))
        if before.canary is not None and record.canary is None:
            await self._record("end-canary", record, caller)
        return record

    async def replace(
        self,
        caller: Caller,
        deployment_id: str,
        *,
        version: int | str | None,
        precision: str | None,
        force: bool,
    ) -> DeploymentRecord:
        """Another version or precision in its place, by a rolling replacement; None: as it is.

        Raises as ClusterManager.replace.
        """
        replaced = self.deployment(deployment_id).id
        record = await self._cluster.replace(replaced, version, precision, force=force)
        await self._record("replace", record, caller)
        return record

    async def undeploy(self, caller: Caller, deployment_id: str) -> None:
        """Raises NotFound."""
        record = self.deployment(deployment_id)
        await self._cluster.undeploy(record.id)
        await self._record("undeploy", record, caller)

    async def history(self, name: str, *, limit: int, before: str | None) -> list[AuditRecord]:
        """Who deployed, scaled, undeployed, deleted or gave an alias to which version, newest first.

        It outlives the model. Raises NotFound: neither a model nor a history has this name.
        """
        found = await self._accounts.history(name, limit=limit, before=before)
        if not found:
            await self._store.get(name)
        return found

    async def _record(
        self, action: str, record: DeploymentRecord, caller: Caller, outcome: str | None = None
    ) -> None:
        """`outcome` None: the precision."""
        what = f"versions/{record.version}"
        await self._accounts.record_model(caller, action, record.model, what, outcome or record.variant.value)

    async def _release(self, name: str, version: int | None, caller: Caller, *, force: bool) -> None:
        """End the conversions and deployments that use a model, or one version of it.

        Without `force` a deployment is a Conflict, and everything stays as it is.
        """
        used = [record for record in self.deployments(name) if version in (None, record.version)]
        if used and not force:
            listed = ", ".join(f"{record.id} (version {record.version})" for record in used)
            raise Conflict(
                f"model {name!r} is deployed: {listed}: undeploy it first, or add ?force=true to do both"
            )
        for job in self._tasks.find(ConvertHandler.task_type, name):
            converted = job.parameters
            assert isinstance(converted, ConvertParameters)
            if version in (None, converted.version):
                await self._tasks.end(job, Cancelled(f"model {name} is being deleted"))
        # Asked again: a conversion that ended meanwhile may have deployed its version.
        for record in self.deployments(name):
            if version in (None, record.version):
                await self.undeploy(caller, record.id)
