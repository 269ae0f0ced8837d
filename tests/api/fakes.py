"""Back layers in memory: each subclasses the real class, so that a change of its interface shows here."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from api.back.backend import Backend
from api.back.cluster.manager import ClusterManager
from api.back.cluster.records import HeadAnswer, Readiness, ServerRecord, ServerState, Target
from api.back.conversion import Converter
from api.back.settings import BackSettings
from api.back.store.archives import ArchiveDownload
from api.back.store.deployments import DeploymentStore
from api.back.store.models import ModelStore
from api.back.store.records import (
    Capacity,
    DeploymentRecord,
    DeploymentState,
    ModelRecord,
    TaskRecord,
    TaskState,
    VersionRecord,
    VersionState,
    now,
)
from api.back.store.tasks import TaskStore
from api.errors import Conflict, InvalidInput, NotFound
from runtime.contract import Architecture, FileEntry, Kind, Manifest, Operation, Variant, VariantEntry
from tests.api.replies import scripted

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

    def put(self, record: TaskRecord) -> None:
        self.records[record.id] = record
        self.history.append(record)

    async def add(self, record: TaskRecord) -> None:
        self.put(record)

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
    ) -> list[TaskRecord]:
        found = sorted(self.records.values(), key=lambda record: record.id, reverse=True)
        found = [item for item in found if type in (None, item.type) and state in (None, item.state)]
        return [item for item in found if before is None or item.id < before][:limit]

    async def unfinished(self) -> Any:
        return [record for record in self.records.values() if not record.state.finished]

    def states(self, task_id: str) -> Any:
        return [record.state.value for record in self.history if record.id == task_id]


class FakeArchive(ArchiveDownload):
    def __init__(self, name: str) -> None:
        self.filename = f"{name}.tar.gz"
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

    def add_ready(self, name: str, kind: Kind, labels: tuple[str, ...] = ()) -> None:
        self.records[name] = ModelRecord(name, kind, "", {"latest": 1}, now())
        self.all_versions[name, 1] = VersionRecord(
            name, 1, VersionState.READY, kind, "a" * 64, {}, manifest(name, kind, labels), None, now()
        )

    async def list(self) -> Any:
        return sorted(self.records.values(), key=lambda record: record.name)

    async def get(self, name: str) -> ModelRecord:
        if name not in self.records:
            raise NotFound(f"no model {name!r}", "model")
        return self.records[name]

    async def versions(self, name: str) -> Any:
        await self.get(name)
        return [record for (model, _), record in self.all_versions.items() if model == name]

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
        return self.records[name]

    async def add_upload(self, name: str, archive: Path, filename: str) -> tuple[VersionRecord, bool]:
        data = archive.read_bytes()  # noqa: ASYNC240 - a few bytes
        archive.unlink()  # noqa: ASYNC240
        if not data.startswith(b"\x1f\x8b"):
            raise InvalidInput.of("file", f"{filename} is neither a .tar.gz nor a .zip archive")
        self.received.append(data)
        digest = hashlib.sha256(data).hexdigest()
        known = [record for key, record in self.all_versions.items() if key[0] == name]
        for record in known:
            if record.archive_sha256 == digest:
                return record, False
        number = len(known) + 1
        self.records.setdefault(name, ModelRecord(name, None, "", {}, now()))
        version = VersionRecord(name, number, VersionState.UPLOADED, None, digest, {}, None, None, now())
        self.all_versions[name, number] = version
        return version, True

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
        ready = dataclasses.replace(
            version, state=VersionState.READY, kind=Kind.LM, manifest=manifest(version.model, Kind.LM)
        )
        self.models.all_versions[version.model, version.version] = ready
        model = self.models.records[version.model]
        aliases = {**model.aliases, "latest": version.version}
        self.models.records[version.model] = dataclasses.replace(model, kind=Kind.LM, aliases=aliases)
        return ready


class FakeDeployments(DeploymentStore):
    def __init__(self) -> None:
        pass


class FakeCluster(ClusterManager):
    """Answers with what `reply` yields; `requests` and `closed` tell what was asked, and what was let go."""

    def __init__(self, models: FakeModels) -> None:
        self.models = models
        self.live: dict[str, DeploymentRecord] = {}
        self.labels: dict[str, tuple[str, ...]] = {}
        self.requests: list[tuple[str, dict[str, Any], Operation]] = []
        self.closed = 0  # generators that ended in any way
        self.running = 0
        self.reply: Callable[[str, Mapping[str, Any], Operation], AsyncIterator[dict[str, Any]]] = scripted
        self.classified: list[list[str]] = []  # the texts of each request
        self.classify_error: Exception | None = None
        self.ready = True

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
        force: bool = False,
    ) -> DeploymentRecord:
        found = await self.models.version(model, version)
        if any((item.model, item.version) == (model, found.version) for item in self.live.values()):
            raise Conflict(f"{model} version {found.version} is deployed already")
        variant = Variant.INT8 if precision == "auto" else Variant(precision)
        record = DeploymentRecord(
            f"d-{model}-{found.version}", model, found.version, precision, variant,
            DeploymentState.READY, replicas, traffic_weight, now(),
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
    ) -> DeploymentRecord:
        record = self.live[deployment_id]
        self.live[deployment_id] = dataclasses.replace(
            record,
            replicas=replicas if replicas is not None else record.replicas,
            traffic_weight=traffic_weight if traffic_weight is not None else record.traffic_weight,
            capacity=capacity or record.capacity,
        )
        return self.live[deployment_id]

    async def undeploy(self, deployment_id: str) -> None:
        del self.live[deployment_id]

    def deployments(self) -> list[DeploymentRecord]:
        return list(self.live.values())

    def _target(self, record: DeploymentRecord) -> Target:
        kind = self.models.records[record.model].kind or Kind.LM
        labels = self.labels[record.model]
        return Target(record.id, record.model, record.version, record.variant, kind, labels, 512)

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
            return targets[0]
        for wanted in filter(None, (kind, fallback)):
            for target in targets:
                if target.kind is wanted and (suits is None or suits(target)):
                    return target
        raise NotFound(f"no model of kind {kind.value} is deployed")

    async def generate(
        self, target: Target, *, text: str, parameters: Mapping[str, Any], operation: Operation, stream: bool
    ) -> AsyncGenerator[dict[str, Any], None]:
        self.requests.append((text, dict(parameters), operation))
        self.running += 1
        try:
            async for details in self.reply(text, {**parameters, "stream": stream}, operation):
                yield details
        finally:
            self.running -= 1
            self.closed += 1

    async def classify(
        self, target: Target, texts: Sequence[str], text_pairs: Sequence[str] | None = None
    ) -> list[HeadAnswer]:
        self.classified.append(list(texts))
        if self.classify_error is not None:
            raise self.classify_error
        scores = [0.1] * len(target.labels)
        scores[1] = 1 - sum(scores[1:])
        slots = None
        if target.kind is Kind.NLU:
            slots = [{"name": "genre", "value": "jazz", "start": 10, "end": 14, "score": 0.9}]
        return [HeadAnswer(scores, target.labels[1], slots) for _ in texts]

    def servers(self) -> list[ServerRecord]:
        models = [f"{record.model}/{record.version}" for record in self.live.values()]
        address = "127.0.0.1:1"
        state = ServerState.READY
        return [ServerRecord("triton-0", state, 42, address, address, address, 0, models, 0, 0.0, now())]

    async def engine_metrics(self) -> str:
        return "# TYPE lmaas_running_sequences gauge\nlmaas_running_sequences 0\n"

    def readiness(self) -> Readiness:
        reasons = [] if self.ready else ["mini-lm: no probe inference succeeded in the last 6 s"]
        return Readiness(self.ready, reasons, dict.fromkeys(self.live, 0.5))


def failing_open(error: Exception) -> Any:
    """A back layer that does not open."""

    @asynccontextmanager
    async def open_backend(settings: BackSettings) -> AsyncIterator[Backend]:
        for backend in cast("list[Backend]", []):
            yield backend
        raise error

    return open_backend


@dataclasses.dataclass
class FakeBack:
    """All of it, with a language model, a sentiment and an inference classifier and an nlu model deployed."""

    models: FakeModels
    tasks: FakeTasks
    converter: FakeConverter
    cluster: FakeCluster
    opened: int = 0
    closed: int = 0

    @classmethod
    def make(cls) -> FakeBack:
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
        return cls(models, FakeTasks(), FakeConverter(models), cluster)

    @property
    def backend(self) -> Backend:
        return Backend(self.models, self.tasks, FakeDeployments(), self.converter, self.cluster)

    @asynccontextmanager
    async def open(self, settings: BackSettings) -> AsyncIterator[Backend]:
        self.opened += 1
        try:
            yield self.backend
        finally:
            self.closed += 1
