"""Handler `convert`: an uploaded version becomes an artifact, and is deployed where that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.back.backend import Backend
from api.back.store.records import DeploymentRecord, VersionRecord
from api.caller import Caller, Scope
from api.errors import Conflict, ServerFault
from api.middle.handlers.base import Handler, Lane
from api.middle.job import Job
from api.middle.schemas.convert import ConvertAnswer, ConvertParameters

if TYPE_CHECKING:
    from api.middle.accounts import Accounts  # which imports the handlers


class ConvertHandler(Handler[ConvertParameters, ConvertAnswer]):
    """Emits `progress` events {stage, done, total}."""

    task_type = "convert"
    lane = Lane.CONVERSIONS
    scope = Scope.MODELS_WRITE
    parameters = ConvertParameters
    answer = ConvertAnswer

    def __init__(self, backend: Backend, precision: str, accounts: Accounts) -> None:
        self._backend = backend
        self._accounts = accounts
        self._precision = precision

    async def run(self, parameters: ConvertParameters, job: Job) -> ConvertAnswer:
        def progress(event: dict[str, Any]) -> None:
            job.emit("progress", event)

        version = await self._backend.models.version(parameters.model, parameters.version)
        version = await self._backend.converter.convert(version, progress)
        deployment = None
        if parameters.deploy:
            progress({"stage": "deploying", "done": 0, "total": 1})
            deployment = await self._deploy(version, parameters, job.record.caller)
            progress({"stage": "deploying", "done": 1, "total": 1})
        if version.kind is None or version.manifest is None:
            raise ServerFault(f"{version.model} version {version.version} was converted without a manifest")
        return ConvertAnswer(
            model=version.model,
            version=version.version,
            kind=version.kind.value,
            variants=[variant.value for variant in version.manifest.variants],
            deployment=deployment.id if deployment else None,
            precision=deployment.variant.value if deployment else None,
            note=deployment.note if deployment else None,
            notes=version.manifest.provenance.get("notes"),
        )

    async def _deploy(
        self, version: VersionRecord, parameters: ConvertParameters, caller: Caller
    ) -> DeploymentRecord:
        precision = parameters.precision or self._precision
        try:
            record = await self._backend.cluster.deploy(
                version.model, version.version, precision, force=parameters.force
            )
        except Conflict:
            # The same bytes were uploaded again, a restart repeats the task, or another façade was quicker:
            # it is deployed, or being loaded, as asked.
            recorded = await self._backend.deployments.list(version.model)
            for record in (*self._backend.cluster.deployments(), *recorded):
                same = (record.model, record.version) == (version.model, version.version)
                if same and precision in (record.precision_asked, record.variant.value):
                    return record
            raise
        what = f"versions/{record.version}"
        await self._accounts.record_model(caller, "deploy", record.model, what, record.variant.value)
        return record
