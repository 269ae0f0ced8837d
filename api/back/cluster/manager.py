"""The Cluster Manager: which version runs where, in which health."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import Any

from api.back.cluster import placement, routing
from api.back.cluster.installation import Installation
from api.back.cluster.keeper import Keeper
from api.back.cluster.live import LiveDeployment
from api.back.cluster.metrics import engine_lines
from api.back.cluster.records import HeadAnswer, Readiness, ServerRecord, ServerState, Target
from api.back.cluster.repository import LiveRepository
from api.back.cluster.supervisor import Supervisor
from api.back.cluster.triton_process import HOST
from api.back.settings import BackSettings
from api.back.store.deployments import DeploymentStore
from api.back.store.models import ModelStore
from api.back.store.records import Capacity, DeploymentRecord, DeploymentState, now
from api.errors import ApiError, Conflict, NotFound, ServerFault, Unavailable
from runtime.contract import Kind, Operation

SERVER_NAME = "triton-0"
UNLOAD_SECONDS = 10.0
CANCEL_SECONDS = 1.0  # after which a task is cancelled once more
STUB_SECONDS = 5.0  # for a stub to end by itself after its model was unloaded
LATE_PROBES = 3  # a deployment is ready while one of so many probes was good

logger = logging.getLogger(__name__)


class ClusterManager:
    """Never blocks the event loop, and is used from that loop alone."""

    def __init__(
        self, settings: BackSettings, installation: Installation, models: ModelStore, records: DeploymentStore
    ) -> None:
        self._settings = settings
        self._models = models
        self._records = records
        self._repository = LiveRepository(settings, models)
        self._supervisor = Supervisor(settings, installation)
        self._live: dict[str, LiveDeployment] = {}  # by id, oldest first
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._loading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by model

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: BackSettings, installation: Installation, models: ModelStore, records: DeploymentStore
    ) -> AsyncIterator[ClusterManager]:
        """Triton is up when this is entered; the last run's deployments are loading. Raises ServerFault."""
        manager = cls(settings, installation, models, records)
        try:
            await asyncio.to_thread(manager._repository.clear)
            await manager._supervisor.start()
            for record in await records.list():
                await manager._restore(record)
            yield manager
        finally:
            await manager._close()

    async def _close(self) -> None:
        await asyncio.gather(*map(_end, self._keeping.values()))
        await self._supervisor.stop()

    async def _restore(self, record: DeploymentRecord) -> None:
        version = await self._models.version(record.model, record.version)
        manifest = placement.require_manifest(version)
        note = placement.explain(manifest, record, self._settings.budget, self._settings.device)
        record = dataclasses.replace(record, state=DeploymentState.LOADING, error=None, note=note)
        live = LiveDeployment(record, version, manifest)
        try:
            await self._repository.lay_out(version, live.manifest, record.variant)
        except Exception as error:  # of the disk or of a bucket: the others can still be served
            logger.exception("%s cannot be laid out", live.name)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            live.become(DeploymentState.FAILED, f"its files cannot be laid out: {reason}")
            self._live[record.id] = live
        else:
            self._keep(live)

    def _keep(self, live: LiveDeployment) -> None:
        keeper = Keeper(
            live, self._supervisor, self._repository, self._settings, self._loading[live.record.model]
        )
        self._live[live.record.id] = live
        self._keeping[live.record.id] = asyncio.create_task(keeper.run())

    async def deploy(
        self,
        model: str,
        version: int | str,
        precision: str,
        replicas: int = 1,
        traffic_weight: int = 100,
        *,
        force: bool = False,
    ) -> DeploymentRecord:
        """Load a version and return when it answered a probe.

        `precision` is auto or a variant; `force` deploys one beyond the quality budget. Raises NotFound;
        InvalidInput (`precision`, `replicas`, `traffic_weight`); Conflict (deployed already, not ready, over
        the budget, no memory for it, undeployed while it loaded); Unavailable (Triton is restarting);
        ServerFault (it does not load).
        """
        found = await self._models.version(model, version)
        budget, device = self._settings.budget, self._settings.device
        record = placement.plan(
            found, precision, replicas, traffic_weight, budget=budget, device=device, force=force
        )
        manifest = placement.require_manifest(found)
        record = dataclasses.replace(record, note=placement.explain(manifest, record, budget, device))
        bounds = (self._settings.num_slots, self._settings.max_kv_tokens, device)
        await asyncio.to_thread(placement.check_memory, manifest, record.variant, *bounds)
        _ = self._supervisor.server  # refuses while there is none
        await self._records.add(record)  # refuses a version that is deployed
        live = LiveDeployment(record, found, manifest)
        try:
            async with self._loading[model]:
                await self._repository.lay_out(found, manifest, record.variant)
            self._keep(live)
            await live.settled.wait()
            if live.record.state is DeploymentState.FAILED:
                raise ServerFault(f"{live.name} does not load: {live.record.error}")
            if live.record.state is DeploymentState.UNLOADING:
                raise Conflict(f"{live.name} was undeployed while it loaded")
            await self._records.update(live.record)
        except BaseException:
            await self._withdraw(live)
            raise
        return live.record

    async def adjust(
        self,
        deployment_id: str,
        *,
        replicas: int | None = None,
        traffic_weight: int | None = None,
        capacity: Capacity | None = None,
    ) -> DeploymentRecord:
        """Change what is given. Raises NotFound, InvalidInput."""
        live = self._find(deployment_id)
        if replicas is not None:
            placement.check_replicas(replicas)
        if traffic_weight is not None:
            placement.check_traffic_weight(traffic_weight)
        given = {"traffic_weight": traffic_weight, "capacity": capacity}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if changes:
            await self._records.update(dataclasses.replace(live.record, **changes))
            live.record = dataclasses.replace(live.record, **changes)
        return live.record

    async def undeploy(self, deployment_id: str) -> None:
        """Take no new requests, wait up to `drain_seconds` for running ones, unload.

        Raises NotFound, Conflict.
        """
        live = self._find(deployment_id)
        if live.record.state is DeploymentState.UNLOADING:
            raise Conflict(f"deployment {deployment_id!r} is being undeployed already")
        await self._withdraw(live)

    async def _withdraw(self, live: LiveDeployment) -> None:
        """Have it leave, once. That goes on where a caller is cancelled, for half of it would be worse."""
        live.become(DeploymentState.UNLOADING)
        if live.leaving is None:
            live.leaving = asyncio.create_task(self._leave(live))
        await asyncio.shield(live.leaving)

    async def _leave(self, live: LiveDeployment) -> None:
        """Drain, unload and forget."""
        if (task := self._keeping.pop(live.record.id, None)) is not None:
            await _end(task)
        try:
            with suppress(Unavailable):
                await self._supervisor.server.drain(live.held, self._settings.drain_seconds)
            await self._unload(live)
        except Exception:
            logger.exception("%s left something behind", live.name)
        self._live.pop(live.record.id, None)
        with suppress(NotFound):
            await self._records.delete(live.record.id)

    async def _unload(self, live: LiveDeployment) -> None:
        """Remove the files, and let Triton see it; a server that is away will see it when it comes."""
        model, version = live.held
        async with self._loading[model]:
            others = await asyncio.to_thread(self._repository.remove, model, version)
            try:
                server = self._supervisor.server
                server.loaded.discard(live.held)
                if others:
                    await server.load(model, UNLOAD_SECONDS)
                else:
                    await server.unload(model, UNLOAD_SECONDS)
            except ApiError as error:
                logger.warning("%s could not be unloaded: %s", live.name, error)
            if (process := self._supervisor.process) is not None:
                await asyncio.to_thread(process.await_stub_end, model, version, STUB_SECONDS)

    def _find(self, deployment_id: str) -> LiveDeployment:
        if deployment_id not in self._live:
            raise NotFound(f"deployment {deployment_id!r} does not exist")
        return self._live[deployment_id]

    def deployments(self) -> list[DeploymentRecord]:
        """All deployments with their present health, oldest first."""
        return [live.record for live in self._live.values()]

    def choose(
        self,
        model: str | None,
        version: int | str | None,
        kind: Kind,
        *,
        fallback: Kind | None = None,
        suits: Callable[[Target], bool] | None = None,
    ) -> Target:
        """The deployment for a request.

        With a model and a version (or alias): that deployment. With a model alone: one of its deployments, by
        traffic weight. Without a model: the oldest deployment of `kind`, else of `fallback`, that `suits`.
        Raises NotFound, InvalidInput (`model`: of another kind), Unavailable (it is loading or healing).
        """
        deployed = [
            live for live in self._live.values() if live.record.state is not DeploymentState.UNLOADING
        ]
        if model is None:
            live = routing.choose_of_kind(deployed, kind, fallback, suits)
        elif version is None:
            live = routing.choose_of_model(deployed, model)
        else:
            live = routing.choose_version(deployed, model, self._models.resolve(model, version))
        routing.require_kind(live, kind, fallback)
        live.require_ready()
        return live.target

    async def generate(
        self,
        target: Target,
        *,
        text: str,
        parameters: Mapping[str, Any],
        operation: Operation,
        stream: bool,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The decoded `details` of each response; closing the generator cancels in the engine.

        Raises the family of api/errors.py: what the engine said, or Unavailable where the server died.
        """
        with self._serving(target) as live:
            answer = self._supervisor.server.generate(
                live.held, text=text, parameters=parameters, operation=operation, stream=stream
            )
            async with aclosing(answer):
                async for details in answer:
                    live.prove()
                    yield details

    async def classify(
        self, target: Target, texts: Sequence[str], text_pairs: Sequence[str] | None = None
    ) -> list[HeadAnswer]:
        """Up to MAX_HEAD_BATCH texts, or pairs, through a classifier or nlu model.

        Raises as `generate` does; the field of an InvalidInput names the row as HeadTensors says.
        """
        with self._serving(target) as live:
            answers = await self._supervisor.server.classify(live.held, texts, text_pairs)
            live.prove()
            return answers

    @contextmanager
    def _serving(self, target: Target) -> Iterator[LiveDeployment]:
        """A request to a deployment; one that finds it absent has it looked at at once."""
        if target.deployment_id not in self._live:
            raise Unavailable(f"{target.model}/{target.version} was undeployed")
        live = self._live[target.deployment_id]
        live.require_ready()
        try:
            yield live
        except Unavailable:
            live.suspect.set()
            raise

    def servers(self) -> list[ServerRecord]:
        """The pool as it is now."""
        supervisor, ports = self._supervisor, self._supervisor.ports
        ready = supervisor.state is ServerState.READY
        proofs = [live.last_good for live in self._live.values() if live.last_good is not None]
        age = timedelta(seconds=time.monotonic() - max(proofs)) if proofs else None
        return [
            ServerRecord(
                name=SERVER_NAME,
                state=supervisor.state,
                pid=supervisor.process.pid if ready and supervisor.process else None,
                grpc_address=f"{HOST}:{ports.grpc}",
                http_address=f"{HOST}:{ports.http}",
                metrics_address=f"{HOST}:{ports.metrics}",
                outstanding=supervisor.server.outstanding() if ready else 0,
                models=[live.name for live in self._live.values()],
                restarts=supervisor.restarts,
                backoff=supervisor.backoff,
                last_probe=now() - age if age is not None else None,
            )
        ]

    async def engine_metrics(self) -> str:
        """The lmaas_* lines of Triton's own /metrics, in Prometheus' text format; empty while it is away."""
        return await engine_lines(self._supervisor.ports.metrics)

    def readiness(self) -> Readiness:
        """Whether each deployment answered a probe inference lately, and if not, why."""
        moment = time.monotonic()
        probes = {
            live.record.id: None if live.last_good is None else moment - live.last_good
            for live in self._live.values()
        }
        reasons = [reason for live in self._live.values() if (reason := self._unready(live, moment))]
        if self._supervisor.state is not ServerState.READY:
            reasons.insert(0, f"{SERVER_NAME} is {self._supervisor.state.value}")
        return Readiness(not reasons, reasons, probes)

    def _unready(self, live: LiveDeployment, moment: float) -> str | None:
        state = live.record.state
        if state is DeploymentState.UNLOADING:
            return None
        where = f"{live.name} ({live.record.id})"
        if state is not DeploymentState.READY:
            return f"{where} is {state.value}" + (f": {live.record.error}" if live.record.error else "")
        allowed = LATE_PROBES * (self._settings.probe_interval_seconds + self._settings.probe_timeout_seconds)
        if not live.good_since(moment - allowed):
            return f"{where} answered no probe for {allowed:g} s"
        return None


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel it until it ends: before Python 3.12 `wait_for` may lose a cancellation to a result."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_SECONDS)
