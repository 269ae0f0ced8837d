"""Back layers in memory: each subclasses the real class, so that a change of its interface shows here."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import hashlib
import json
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

from api.back.backend import Backend
from api.back.cluster.manager import ClusterManager
from api.back.cluster.records import (
    CapacityRecord,
    HeadAnswer,
    MemoryRecord,
    Readiness,
    ServerRecord,
    ServerState,
    Target,
)
from api.back.conversion import Converter
from api.back.settings import BackSettings
from api.back.store.archives import ArchiveDownload
from api.back.store.audit import AuditStore
from api.back.store.batches import BatchStore
from api.back.store.calibrations import Calibrations
from api.back.store.callbacks import CallbackStore
from api.back.store.changes import Subscription
from api.back.store.deployments import DeploymentStore
from api.back.store.files import FileStore
from api.back.store.keys import KeyStore
from api.back.store.models import ModelStore
from api.back.store.records import (
    AuditRecord,
    Autoscale,
    CanaryPolicy,
    Capacity,
    DeploymentRecord,
    DeploymentState,
    KeyRecord,
    ModelRecord,
    Received,
    Rollout,
    TaskRecord,
    TaskState,
    UsageRecord,
    VersionRecord,
    VersionState,
    now,
)
from api.back.store.task_events import StoredEvent
from api.back.store.task_queue import TaskQueue
from api.back.store.tasks import TaskStore
from api.back.store.uploads import UploadStore
from api.back.store.usage import UsageStore
from api.back.templates import Templates
from api.back.training import OUTCOME, REQUEST, RESULT, Trained, Trainings
from api.caller import ALL_SCOPES, KEY_PREFIX, NO_LIMITS, Limits, Scope
from api.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from api.log_context import LogContext
from runtime.calibration import Calibration
from runtime.contract import Kind, Operation, Variant
from runtime.manifest import Architecture, FileEntry, Manifest, VariantEntry
from runtime.messages import Answer, Slot, Usage
from tests.api.replies import scripted

Back = TypeVar("Back", bound="FakeBack")
ARCHIVE = bytes(range(256)) * 40
NLI_LABELS = ("contradiction", "entailment", "neutral")


def manifest(name: str, kind: Kind, labels: tuple[str, ...] = ()) -> Manifest:
    file = FileEntry("fp32/model.onnx", 1000, "0" * 64)
    return Manifest(
        name=name,
        kind=kind,
        architecture=Architecture(2, 2, 64, 128, 1000, 512, 0, 0),
        tokenizer=FileEntry("tokenizer.json", 10, "1" * 64),
        variants={
            Variant.FP32: VariantEntry((file,), (), 0.1),
            Variant.INT8: VariantEntry((file,), (), 0.1, {"mean_kl": 0.01}),
        },
        labels=labels,
    )


class FakeTasks(TaskStore):
    def __init__(self) -> None:
        self.records: dict[str, TaskRecord] = {}
        self.history: list[TaskRecord] = []  # every state of every record, in order
        self.failure: StoreUnavailable | None = None  # while it is set, nothing becomes durable

    def put(self, record: TaskRecord) -> None:
        self.records[record.id] = record
        self.history.append(record)

    async def flush(self) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise copy.copy(self.failure)

    async def get(self, task_id: str) -> TaskRecord:
        if task_id not in self.records:
            raise NotFound(f"no task {task_id}")
        return self.records[task_id]

    async def list(
        self,
        *,
        type: str | None = None,  # noqa: A002 - the interface's name
        state: TaskState | None = None,
        limit: int = 50,
        before: str | None = None,
        caller_key: str | None = None,
    ) -> list[TaskRecord]:
        found = sorted(self.records.values(), key=lambda record: record.id, reverse=True)
        found = [item for item in found if caller_key in (None, item.caller.key)]
        found = [item for item in found if type in (None, item.type) and state in (None, item.state)]
        return [item for item in found if before is None or item.id < before][:limit]

    async def with_key(self, record: TaskRecord) -> TaskRecord | None:
        found = (item for item in self.records.values() if item.idempotency_key == record.idempotency_key)
        return next(found, None)

    async def events(self, task_id: str, attempt: int, number: int) -> Sequence[StoredEvent]:
        return []

    @contextmanager
    def changes(self, task_id: str) -> Iterator[Subscription]:
        yield Subscription()

    poll_seconds = 0.001

    def states(self, task_id: str) -> Any:
        return [record.state.value for record in self.history if record.id == task_id]


def given_back(record: TaskRecord) -> dict[str, Any]:
    interrupted = record.state is TaskState.RUNNING
    return {
        "state": TaskState.QUEUED, "started": None, "interruptions": record.interruptions + interrupted,
    }  # fmt: skip


class FakeQueue(TaskQueue):
    """Over the records of a FakeTasks, as of a façade named `worker`. No lease ends."""

    def __init__(self, tasks: FakeTasks, worker: str = "here") -> None:
        self.tasks = tasks
        self.worker = worker
        self.reported: list[tuple[str, int, str]] = []
        self.held = True  # False: the lease has ended

    @property
    def failure(self) -> StoreUnavailable | None:
        return self.tasks.failure

    @property
    def num_waiting(self) -> int:
        return 0

    async def add(self, record: TaskRecord) -> None:
        await self.tasks.flush()
        self.tasks.put(record)

    async def add_once(self, record: TaskRecord) -> TaskRecord:
        found = await self.tasks.with_key(record)
        if found is None:
            await self.add(record)
        return found or record

    def update(self, record: TaskRecord) -> None:
        self.tasks.put(record)

    async def flush(self) -> None:
        await self.tasks.flush()

    def report(self, record: TaskRecord, number: int, name: str, data: dict[str, Any]) -> None:
        self.reported.append((record.id, number, name))

    @contextmanager
    def changes(self) -> Iterator[Subscription]:
        yield Subscription()

    async def complete(self, record: TaskRecord) -> bool:
        await self.tasks.flush()
        kept = self.tasks.records[record.id]
        if kept.state.finished or (kept.owner, kept.attempt) != (record.owner, record.attempt):
            return kept == record
        self.tasks.put(record)
        return True

    async def claim(self, lanes: Collection[str], limit: int) -> list[TaskRecord]:
        await self.tasks.flush()
        free = [record for record in self._open() if record.owner is None and record.lane in lanes]
        claimed = [
            dataclasses.replace(
                record,
                owner=self.worker,
                attempt=record.attempt + 1,
                **given_back(record),
            )
            for record in sorted(free, key=lambda record: record.created)[:limit]
        ]
        for record in claimed:
            self.tasks.records[record.id] = record
        return claimed

    async def extend(self) -> bool:
        await self.tasks.flush()
        held, self.held = self.held, True
        return held

    async def owned(self) -> set[str]:
        return {record.id for record in self._open() if record.owner == self.worker}

    async def release(self) -> int:
        await self.tasks.flush()
        mine = [record for record in self._open() if record.owner == self.worker]
        for record in mine:
            self.tasks.records[record.id] = dataclasses.replace(record, owner=None, **given_back(record))
        return len(mine)

    async def cancel(self, task_id: str) -> None:
        await self.tasks.flush()
        record = self.tasks.records[task_id]
        if not record.state.finished:
            self.tasks.records[task_id] = dataclasses.replace(record, cancel_requested=True)

    async def cancel_requests(self) -> list[str]:
        await self.tasks.flush()
        mine = [record for record in self._open() if record.owner == self.worker]
        return [record.id for record in mine if record.cancel_requested]

    def _open(self) -> list[TaskRecord]:
        return [record for record in self.tasks.records.values() if not record.state.finished]


class FakeKeys(KeyStore):
    def __init__(self) -> None:
        self.records: dict[str, KeyRecord] = {}
        self.reads = 0
        self.failure: StoreUnavailable | None = None  # while it is set, nothing can be read

    async def create(
        self,
        name: str,
        scopes: frozenset[Scope],
        limits: Limits,
        expires: datetime | None = None,
        key: str | None = None,
    ) -> tuple[KeyRecord, str]:
        assert key is None, "the API creates keys by itself"
        return self.add(name, scopes, limits, expires)

    def add(
        self,
        name: str,
        scopes: frozenset[Scope] = ALL_SCOPES,
        limits: Limits = NO_LIMITS,
        expires: datetime | None = None,
    ) -> tuple[KeyRecord, str]:
        """As `create`, from outside of the event loop."""
        key_id, secret = f"{KEY_PREFIX}{len(self.records):012x}", name[:1] * 43
        digest = hashlib.sha256(secret.encode()).hexdigest()
        self.records[key_id] = KeyRecord(key_id, name, digest, scopes, limits, now(), expires)
        return self.records[key_id], f"{key_id}_{secret}"

    async def list(self) -> Any:
        return list(self.records.values())

    async def get(self, key_id: str) -> KeyRecord | None:
        self.reads += 1
        if self.failure is not None:
            raise copy.copy(self.failure)
        return self.records.get(key_id)

    async def any(self) -> bool:
        if self.failure is not None:
            raise copy.copy(self.failure)
        return bool(self.records)

    async def revoke(self, key_id: str) -> KeyRecord:
        self.records[key_id] = dataclasses.replace(self.records[key_id], revoked=now())
        return self.records[key_id]


class FakeArchive(ArchiveDownload):
    def __init__(self, name: str) -> None:
        self.filename = f"{name}.tar"
        self.etag = hashlib.sha256(ARCHIVE).hexdigest()
        self.size = len(ARCHIVE)

    async def read(self, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        data = ARCHIVE[start:end]
        for offset in range(0, len(data), 1000):
            yield data[offset : offset + 1000]


class FakeModels(ModelStore):
    def __init__(self) -> None:
        self.records: dict[str, ModelRecord] = {}
        self.all_versions: dict[tuple[str, int], VersionRecord] = {}
        self.received: list[bytes] = []
        self.blob_folder = Path("nowhere")  # of the uploads that came by digest
        self.calibrations = FakeCalibrations(self)
        self.trained: dict[str, Kind] = {}  # what a conversion finds; of all others it finds language models

    def add_ready(self, name: str, kind: Kind, labels: tuple[str, ...] = ()) -> None:
        self.records[name] = ModelRecord(name, kind, "", {"latest": 1}, now())
        self.all_versions[name, 1] = VersionRecord(
            name, 1, VersionState.READY, kind, "a" * 64, {}, manifest(name, kind, labels), None, now()
        )

    async def list(self) -> Any:
        return [await self.get(name) for name in sorted(self.records)]

    async def get(self, name: str) -> ModelRecord:
        if name not in self.records:
            raise NotFound(f"no model {name!r}", "model")
        numbers = tuple(version for model, version in self.all_versions if model == name)
        return dataclasses.replace(self.records[name], versions=numbers)

    async def version(self, name: str, version: int | str) -> VersionRecord:
        record = await self.get(name)
        number = record.aliases.get(version) if isinstance(version, str) else version
        found = self.all_versions.get((name, number or 0))
        if found is None:
            raise NotFound(f"model {name} has no version {version!r}", "version")
        return found

    async def update(
        self, name: str, *, description: str | None = None, aliases: Mapping[str, int | None] | None = None
    ) -> ModelRecord:
        record = await self.get(name)
        merged = {key: value for key, value in {**record.aliases, **(aliases or {})}.items() if value}
        for alias, version in merged.items():
            if (name, version) not in self.all_versions:
                raise InvalidInput.of(f"aliases.{alias}", f"there is no version {version}")
        text = record.description if description is None else description
        self.records[name] = dataclasses.replace(record, description=text, aliases=merged)
        return await self.get(name)

    async def add_upload(
        self, name: str, archive: Path, filename: str, sha256: str | None = None
    ) -> tuple[VersionRecord, bool]:
        data = archive.read_bytes()  # noqa: ASYNC240 - a few bytes
        archive.unlink()  # noqa: ASYNC240
        if not data.startswith(b"\x1f\x8b"):
            raise InvalidInput.of("file", f"{filename} is neither a .tar.gz nor a .zip archive")
        self.received.append(data)
        digest = hashlib.sha256(data).hexdigest()
        assert sha256 in (None, digest)  # the receiver hashes what it writes
        known = [record for key, record in self.all_versions.items() if key[0] == name]
        for record in known:
            if record.archive_sha256 == digest:
                return record, False
        number = len(known) + 1
        self.records.setdefault(name, ModelRecord(name, None, "", {}, now()))
        version = VersionRecord(name, number, VersionState.UPLOADED, None, digest, {}, None, None, now())
        self.all_versions[name, number] = version
        return version, True

    async def add_blob(self, name: str, sha256: str) -> tuple[VersionRecord, bool]:
        blob = self.blob_folder / sha256[:2] / sha256
        if not blob.exists():
            raise NotFound(f"sha256:{sha256} is not stored", "blob")
        copy = Path(shutil.copy(blob, self.blob_folder / "copy"))
        return await self.add_upload(name, copy, sha256)

    async def delete_version(self, name: str, version: int | str) -> None:
        record = await self.version(name, version)
        del self.all_versions[name, record.version]

    async def delete(self, name: str) -> None:
        await self.get(name)
        del self.records[name]
        self.all_versions = {key: value for key, value in self.all_versions.items() if key[0] != name}

    async def archive(self, name: str, version: int | str) -> ArchiveDownload:
        await self.version(name, version)
        return FakeArchive(name)


class FakeCalibrations(Calibrations):
    def __init__(self, models: FakeModels) -> None:
        self._models = models

    async def write(self, version: VersionRecord, calibration: Calibration | None) -> None:
        key = version.model, version.version
        self._models.all_versions[key] = dataclasses.replace(version, calibration=calibration)


class FakeConverter(Converter):
    def __init__(self, models: FakeModels) -> None:
        self.models = models
        self.gate: asyncio.Event | None = None  # hold a conversion until it is set
        self.error: Exception | None = None

    async def convert(
        self, version: VersionRecord, progress: Callable[[dict[str, Any]], None] = lambda event: None
    ) -> VersionRecord:
        for done, stage in enumerate(("reading", "exporting", "verifying")):
            progress({"stage": stage, "done": done, "total": 3})
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        kind = self.models.trained.get(version.model, Kind.LM)
        ready = dataclasses.replace(
            version, state=VersionState.READY, kind=kind, manifest=manifest(version.model, kind)
        )
        self.models.all_versions[version.model, version.version] = ready
        model = self.models.records[version.model]
        aliases = {**model.aliases, "latest": version.version}
        self.models.records[version.model] = dataclasses.replace(model, kind=kind, aliases=aliases)
        return ready


class FakeTrainings(Trainings):
    """Its folders are real; in place of the process it writes what that would write."""

    def __init__(self, models: FakeModels) -> None:
        self._models = models
        self.kinds = models.trained
        self.gate: asyncio.Event | None = None  # hold a training until it is set
        self.error: Exception | None = None
        self.requests: list[dict[str, Any]] = []

    def use(self, settings: BackSettings) -> None:
        self._settings = settings

    async def _run(self, folder: Path, progress: Callable[[dict[str, Any]], None]) -> None:
        request = json.loads((folder / REQUEST).read_text())
        self.requests.append(request)
        self.kinds[request["name"]] = Kind(request["kind"])
        progress({"stage": "training", "done": 0, "total": 2})
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        (folder / RESULT / request["name"]).mkdir(parents=True)
        trained = Trained({"accuracy": 0.9}, None, 1.5, 2, 8, ["rows: 8 to train on"])
        (folder / OUTCOME).write_text(json.dumps(dataclasses.asdict(trained)))


def _chosen(target: Target) -> Target:
    """As the real manager does."""
    LogContext.current().model = target.model
    return target


class FakeCallbacks(CallbackStore):
    def __init__(self) -> None:
        pass

    async def claim(self, limit: int, lease: timedelta) -> list[TaskRecord]:
        return []


class FakeDeployments(DeploymentStore):
    """Holds what other façades deployed; what is deployed here, FakeCluster has."""

    def __init__(self) -> None:
        self.records: list[DeploymentRecord] = []

    async def list(self, model: str | None = None) -> Any:
        return [record for record in self.records if model in (None, record.model)]


class FakeUsage(UsageStore):
    """Holds what was counted; the rows of it are tested on real databases."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str, Usage]] = []

    def note(self, key: str, model: str, measured: Usage) -> None:
        self.noted.append((key, model, measured))

    async def list(
        self,
        *,
        days: int,
        key: str | None = None,
        model: str | None = None,
        limit: int = 1000,
        offset: int = 0,
    ) -> list[UsageRecord]:
        rows = [
            UsageRecord(owner, name, "2026-11-01", 1, measured.prompt_tokens, measured.completion_tokens)
            for owner, name, measured in self.noted
            if key in (None, owner) and model in (None, name)
        ]
        return rows[offset : offset + limit]


class FakeAudit(AuditStore):
    def __init__(self) -> None:
        self.records: list[AuditRecord] = []
        self.failure: StoreUnavailable | None = None

    async def add(self, record: AuditRecord) -> None:
        if self.failure is not None:
            raise copy.copy(self.failure)
        self.records.append(record)

    async def list(
        self, *, limit: int = 50, before: str | None = None, below: str | None = None
    ) -> list[AuditRecord]:
        newest = [record for record in self.records[::-1] if record.target.startswith(below or "")]
        return [record for record in newest if before is None or record.id < before][:limit]


class FakeBatches(BatchStore):
    """Likewise; nothing is there to be claimed."""

    def __init__(self) -> None:
        self.worker = "here"

    async def claim(self, running: Collection[str], limit: int) -> Any:
        return []

    async def release(self) -> None:
        pass

    async def sweep(self, before: datetime) -> int:
        return 0


class FakeFiles(FileStore):
    """Holds nothing; tests of files use `tests.api.stored`."""

    def __init__(self) -> None:
        pass


class FakeCluster(ClusterManager):
    """Answers with what `reply` yields; `requests` and `closed` tell what was asked, and what was let go."""

    def __init__(self, models: FakeModels) -> None:
        self.models = models
        self.observers = []
        self.live: dict[str, DeploymentRecord] = {}
        self.labels: dict[str, tuple[str, ...]] = {}
        self.chat: dict[str, dict[str, str]] = {}
        self.requests: list[tuple[str | Sequence[int], dict[str, Any], Operation]] = []
        self.closed = 0  # generators that ended in any way
        self.running = 0
        self.reply: Callable[[str, Mapping[str, Any], Operation], AsyncIterator[Answer]] = scripted
        self.classified: list[list[str]] = []  # the texts of each request
        self.temperatures: list[float | None] = []  # that came with them
        self.special_tokens: list[bool] = []  # that came with them
        self.classify_error: Exception | None = None
        self.ready = True
        self.away: list[str] = []  # replicas, while others answer

    def add(self, name: str, labels: tuple[str, ...] = ()) -> None:
        self.live[f"d-{name}"] = DeploymentRecord(
            f"d-{name}", name, 1, "auto", Variant.INT8, DeploymentState.READY, 1, 100, now()
        )
        self.labels[name] = labels

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
        found = await self.models.version(model, version)
        if any((item.model, item.version) == (model, found.version) for item in self.live.values()):
            raise Conflict(f"{model} version {found.version} is deployed already")
        variant = Variant.INT8 if precision == "auto" else Variant(precision)
        record = DeploymentRecord(
            f"d-{model}-{found.version}", model, found.version, precision, variant,
            DeploymentState.READY, replicas, traffic_weight, now(),
            servers={f"triton-{number}": DeploymentState.READY for number in range(replicas)}, canary=canary,
            autoscale=autoscale,
        )  # fmt: skip
        self.live[record.id] = record
        self.labels.setdefault(model, ())
        return record

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
        record = self.live[deployment_id]
        self.live[deployment_id] = dataclasses.replace(
            record,
            replicas=replicas if replicas is not None else record.replicas,
            traffic_weight=traffic_weight if traffic_weight is not None else record.traffic_weight,
            capacity=capacity or record.capacity,
            canary=None if ends_canary else canary or record.canary,
            autoscale=autoscale or record.autoscale,
        )
        return self.live[deployment_id]

    async def replace(
        self,
        deployment_id: str,
        version: int | str | None = None,
        precision: str | None = None,
        *,
        force: bool = False,
    ) -> DeploymentRecord:
        before = self.live[deployment_id]
        found = await self.models.version(before.model, before.version if version is None else version)
        variant = before.variant if precision in (None, "auto") else Variant(precision)
        rollout = Rollout("draining", before.version, before.variant)
        self.live[deployment_id] = dataclasses.replace(
            before, version=found.version, variant=variant, rollout=rollout
        )
        return self.live[deployment_id]

    async def undeploy(self, deployment_id: str) -> None:
        del self.live[deployment_id]

    def deployments(self) -> list[DeploymentRecord]:
        return list(self.live.values())

    def _target(self, record: DeploymentRecord) -> Target:
        kind = self.models.records[record.model].kind or Kind.LM
        labels = self.labels[record.model]
        chat = self.chat.get(record.model, {})
        return Target(record.id, record.model, record.version, record.variant, kind, labels, 512, chat)

    def targets(self, model: str) -> list[Target]:
        return [self._target(record) for record in self.live.values() if record.model == model]

    def choose(
        self,
        model: str | None,
        version: int | str | None,
        kind: Kind,
        *,
        fallback: Kind | None = None,
        suits: Callable[[Target], bool] | None = None,
    ) -> Target:
        targets = [self._target(record) for record in self.live.values()]
        if model is not None:
            targets = [target for target in targets if target.model == model]
            if not targets:
                raise NotFound(f"no model {model!r} is deployed", "model")
            if targets[0].kind not in (kind, fallback):
                raise InvalidInput.of("model", f"{model} is of kind {targets[0].kind.value}")
            return _chosen(targets[0])
        for wanted in filter(None, (kind, fallback)):
            for target in targets:
                if target.kind is wanted and (suits is None or suits(target)):
                    return _chosen(target)
        raise NotFound(f"no model of kind {kind.value} is deployed")

    async def generate(
        self,
        target: Target,
        *,
        prompt: str | Sequence[int],
        parameters: Mapping[str, Any],
        operation: Operation,
        stream: bool,
    ) -> AsyncGenerator[Answer, None]:
        self.requests.append((prompt, dict(parameters), operation))
        self.running += 1
        try:
            text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
            async for piece in self.reply(text, {**parameters, "stream": stream}, operation):
                yield piece
        finally:
            self.running -= 1
            self.closed += 1

    def calibration(self, target: Target) -> Calibration | None:
        return self.models.all_versions[target.model, target.version].calibration

    async def classify(
        self,
        target: Target,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        temperature: float | None = None,
        *,
        special_tokens: bool = True,
    ) -> list[HeadAnswer]:
        self.classified.append(list(texts))
        self.special_tokens.append(special_tokens)
        self.temperatures.append(temperature)
        if self.classify_error is not None:
            raise self.classify_error
        scores = [0.1] * len(target.labels)
        scores[1] = 1 - sum(scores[1:])
        slots = None
        if target.kind is Kind.NLU:
            slots = [Slot("genre", "jazz", 10, 14, 0.9)]
        return [HeadAnswer(scores, target.labels[1], slots) for _ in texts]

    async def memory(self, version: VersionRecord) -> MemoryRecord:
        return MemoryRecord({Variant.INT8: 300 * 2**20}, 2**33)

    def servers(self) -> list[ServerRecord]:
        models = [f"{record.model}/{record.version}" for record in self.live.values()]
        address = "127.0.0.1:1"
        state = ServerState.READY
        return [
            ServerRecord(
                "triton-0", state, 42, "avx2", address, address, address, 0, 1, models, 0, 0.0, now()
            )
        ]

    def drain_server(self, name: str, draining: bool) -> ServerRecord:
        (server,) = self.servers()
        if name != server.name:
            raise NotFound(f"server {name!r} does not exist")
        return dataclasses.replace(server, state=ServerState.DRAINING if draining else ServerState.READY)

    def capacity(self) -> list[CapacityRecord]:
        return [
            CapacityRecord(
                each.id, each.model, each.version, each.replicas, 3, 2, 2, 12.0, 5, 6.0, "measured", 2.0, 0.7,
                each.autoscale, "12.0 requests/s arrive",
            )
            for each in self.live.values()
        ]  # fmt: skip

    @property
    def rollbacks(self) -> Mapping[str, int]:
        return {"mini-lm": 2}

    async def engine_metrics(self) -> str:
        return "# TYPE lmaas_running_sequences gauge\nlmaas_running_sequences 0\n"

    def readiness(self) -> Readiness:
        reasons = [] if self.ready else ["mini-lm: no probe inference succeeded in the last 6 s"]
        return Readiness(self.ready, reasons, dict.fromkeys(self.live, 0.5), self.away)


def failing_open(error: Exception) -> Any:
    """A back layer that does not open."""

    @asynccontextmanager
    async def open_backend(settings: BackSettings) -> AsyncIterator[Backend]:
        for backend in cast("list[Backend]", []):
            yield backend
        raise error

    return open_backend


class FakeUploads(UploadStore):
    """Nothing is here, and nothing comes; see tests/api/stored.py."""

    def __init__(self) -> None:
        pass

    async def received(self, sha256: str) -> Received:
        return Received(0, False)


@dataclasses.dataclass
class FakeBack:
    """All of it, with a language model, a sentiment and an inference classifier and an nlu model deployed."""

    models: FakeModels
    tasks: FakeTasks
    queue: FakeQueue
    converter: FakeConverter
    trainings: FakeTrainings
    cluster: FakeCluster
    keys: FakeKeys = dataclasses.field(default_factory=FakeKeys)
    files: FileStore = dataclasses.field(default_factory=FakeFiles)
    usage: FakeUsage = dataclasses.field(default_factory=FakeUsage)
    audit: FakeAudit = dataclasses.field(default_factory=FakeAudit)
    uploads: UploadStore = dataclasses.field(default_factory=FakeUploads)
    batches: BatchStore = dataclasses.field(default_factory=FakeBatches)
    deployments: FakeDeployments = dataclasses.field(default_factory=FakeDeployments)
    templates: Templates = dataclasses.field(default_factory=Templates)
    opened: int = 0
    closed: int = 0

    @classmethod
    def make(cls: type[Back]) -> Back:
        models = FakeModels()
        cluster = FakeCluster(models)
        for name, kind, labels in (
            ("mini-lm", Kind.LM, ()),
            ("mini-nli", Kind.CLASSIFIER, NLI_LABELS),
            ("mini-sentiment", Kind.CLASSIFIER, ("negative", "positive")),
            ("mini-nlu", Kind.NLU, ("GetWeather", "PlayMusic")),
        ):
            models.add_ready(name, kind, labels)
            cluster.add(name, labels)
        tasks = FakeTasks()
        return cls(models, tasks, FakeQueue(tasks), FakeConverter(models), FakeTrainings(models), cluster)

    @property
    def backend(self) -> Backend:
        return Backend(
            self.models,
            self.tasks,
            self.queue,
            self.deployments,
            self.converter,
            self.trainings,
            self.cluster,
            self.keys,
            self.files,
            self.usage,
            self.audit,
            self.uploads,
            self.batches,
            FakeCallbacks(),
            self.templates,
        )

    @asynccontextmanager
    async def open(self, settings: BackSettings) -> AsyncIterator[Backend]:
        self.opened += 1
        self.trainings.use(settings)
        try:
            yield self.backend
        finally:
            await self.templates.close()
            self.closed += 1
