"""Deployments and servers as the manager holds them, without a process."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from api.back.cluster.addresses import Endpoints
from api.back.cluster.deployment import Deployment
from api.back.cluster.driver import Capabilities, ServerDriver
from api.back.cluster.records import ModelVersion, ServerState
from api.back.cluster.replica import Replica
from api.back.cluster.repository import ModelRepository
from api.back.cluster.supervisor import Supervisor
from api.back.cluster.triton_client import TritonClient
from api.back.store.records import DeploymentRecord, DeploymentState, VersionRecord, VersionState, now
from runtime.contract import Device, Kind, Variant
from runtime.manifest import Architecture, FileEntry, Manifest, VariantEntry

MIB = 1024**2
CARD = {"perplexity_change": 0.0, "top1_agreement": 1.0}


def manifest(
    kind: Kind = Kind.LM,
    variants: tuple[Variant, ...] = (Variant.FP32, Variant.INT8),
    labels: tuple[str, ...] = (),
) -> Manifest:
    card = CARD if kind is Kind.LM else {}
    return Manifest(
        name="tiny",
        kind=kind,
        architecture=Architecture(12, 12, 64, 768, 50257, 1024, 50256, 50256),
        tokenizer=FileEntry("tokenizer.json", 10, "0" * 64),
        variants={
            variant: VariantEntry((FileEntry("model.onnx", 100 * MIB, "0" * 64),), (), 0.1, card)
            for variant in variants
        },
        labels=labels,
    )


def version(number: int = 1, content: Manifest | None = None) -> VersionRecord:
    state = VersionState.READY if content else VersionState.UPLOADED
    return VersionRecord(
        "tiny", number, state, content.kind if content else None, "", {}, content, None, now()
    )


class ScriptedDriver(ServerDriver):
    """A server without a process: `deaths` brings the reasons why it dies."""

    shared = False
    leaving = False
    kernels = None

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.starts = 0
        self.kills = 0
        self.failures: list[Exception] = []  # of the next starts
        self.deaths: asyncio.Queue[str] = asyncio.Queue()

    @property
    def name(self) -> str:
        return f"triton-{self.number}"

    @property
    def endpoints(self) -> Endpoints:
        return Endpoints("127.0.0.1:9", None, "127.0.0.1:9")

    @property
    def key(self) -> str:
        return "key"

    @property
    def pid(self) -> int | None:
        return None

    async def start(self, seconds: float) -> None:
        self.starts += 1
        if self.failures:
            raise self.failures.pop()

    async def died(self) -> str:
        return await self.deaths.get()

    async def kill(self) -> None:
        self.kills += 1

    async def stop(self) -> None:
        pass

    @property
    def repository(self) -> ModelRepository:
        raise NotImplementedError

    async def capabilities(self) -> Capabilities:
        return Capabilities("nowhere", Device.CPU, None, has_kernels=False)

    async def model_runs(self, version: ModelVersion) -> bool:
        return False

    @asynccontextmanager
    async def watch_model(self, version: ModelVersion) -> AsyncIterator[asyncio.Event]:
        yield asyncio.Event()

    async def end_model(self, version: ModelVersion) -> None:
        pass

    async def await_model_end(self, version: ModelVersion, seconds: float) -> None:
        pass

    def cpu_seconds(self, version: ModelVersion) -> Mapping[int, float]:
        return {}


class IdleClient(TritonClient):
    """Of a server that is not called."""

    def __init__(self) -> None:
        self._sessions = {}


def server(number: int = 0, *, up: bool = True) -> Supervisor:
    """One of the pool. It has no process; where it is up, its client reaches nothing."""
    made = Supervisor(ScriptedDriver(number))
    if up:
        made.state, made._client = ServerState.READY, IdleClient()
    return made


def deployed(
    model: str,
    number: int = 1,
    *,
    kind: Kind = Kind.LM,
    weight: int = 100,
    state: DeploymentState = DeploymentState.READY,
    labels: tuple[str, ...] = (),
    servers: Sequence[Supervisor] | None = None,
) -> Deployment:
    """A deployment with a replica on each of `servers`, all in `state`."""
    content = manifest(kind, labels=labels)
    places = [server()] if servers is None else servers
    record = DeploymentRecord(
        f"{model}-{number}", model, number, "auto", Variant.INT8, state, len(places), weight, now()
    )
    made = Deployment(record, dataclasses.replace(version(number, content), model=model), content)
    for place in places:
        replica = Replica(made.version_record, content, Variant.INT8, place, made.traffic)
        replica.become(state)
        made.replicas.append(replica)
    return made
