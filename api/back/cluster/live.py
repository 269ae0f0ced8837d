"""A deployment as it lives: its record, its health, and the proof of it."""

from __future__ import annotations

import asyncio
import dataclasses
import time

from api.back.cluster.messages import RETRY_SECONDS
from api.back.cluster.records import Target
from api.back.cluster.streams import Held
from api.back.store.records import DeploymentRecord, DeploymentState, VersionRecord
from api.errors import Unavailable
from runtime.contract import GoldenPrompt, Manifest

PROBE_TEXT = GoldenPrompt("The")  # where the artifact brings none


class LiveDeployment:
    """Times are those of `time.monotonic`, in seconds."""

    def __init__(self, record: DeploymentRecord, version: VersionRecord, manifest: Manifest) -> None:
        self.record = record
        self.version = version
        self.manifest = manifest
        self.target = Target(
            deployment_id=record.id,
            model=record.model,
            version=record.version,
            precision=record.variant,
            kind=manifest.kind,
            labels=manifest.labels,
            context_length=manifest.architecture.context_length,
        )
        self.last_good: float | None = None  # when an inference last succeeded, a caller's or a probe
        self.share = 0.0  # of the model's traffic, as `routing` counts it
        self.settled = asyncio.Event()  # it was ready, failed or was taken away, once
        self.leaving: asyncio.Task[None] | None = None
        self.suspect = asyncio.Event()  # a request met a sign that it is not well

    @property
    def held(self) -> Held:
        return self.record.model, self.record.version

    @property
    def name(self) -> str:
        return f"{self.record.model}/{self.record.version}"

    @property
    def probe(self) -> GoldenPrompt:
        return self.manifest.golden[0] if self.manifest.golden else PROBE_TEXT

    def become(self, state: DeploymentState, error: str | None = None) -> None:
        if self.record.state is DeploymentState.UNLOADING:
            return  # it only ever leaves from there
        self.record = dataclasses.replace(self.record, state=state, error=error)
        if state in (DeploymentState.READY, DeploymentState.FAILED, DeploymentState.UNLOADING):
            self.settled.set()

    def prove(self) -> None:
        """An inference succeeded just now."""
        self.last_good = time.monotonic()

    def good_since(self, moment: float) -> bool:
        return self.last_good is not None and self.last_good >= moment

    def require_ready(self) -> None:
        """Raises Unavailable."""
        if self.record.state is not DeploymentState.READY:
            reason = f": {self.record.error}" if self.record.error else ""
            raise Unavailable(f"{self.name} is {self.record.state.value}{reason}", RETRY_SECONDS)
