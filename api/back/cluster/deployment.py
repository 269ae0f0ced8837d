"""A deployment with its replicas: what was asked for, and the state that it has."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, Literal

from api.back.cluster.canary import Watch
from api.back.cluster.messages import RETRY_SECONDS
from api.back.cluster.records import ModelVersion, Target
from api.back.cluster.replica import Replica, Traffic
from api.back.store.records import (
    DeploymentEvent,
    DeploymentRecord,
    DeploymentState,
    Rollout,
    VersionRecord,
    now,
)
from api.errors import Unavailable
from runtime.manifest import Manifest

# The state of a deployment is the first of these that one of its replicas has.
PRECEDENCE = (
    DeploymentState.READY,
    DeploymentState.UNHEALTHY,
    DeploymentState.LOADING,
    DeploymentState.FAILED,
)

MAX_EVENTS = 20  # that a record keeps


class Deployment:
    def __init__(self, record: DeploymentRecord, version: VersionRecord, manifest: Manifest) -> None:
        self._record = record
        self.watch = None if record.canary is None else Watch(record.canary)
        self.unrecorded = False  # the record was changed here, and is not yet in the database
        self.version_record = version
        self.manifest = manifest
        self._artifact = manifest.digest(record.variant)
        self.replicas: list[Replica] = []
        self.traffic = Traffic()
        self.target = Target(
            deployment_id=record.id,
            model=record.model,
            version=record.version,
            precision=record.variant,
            kind=manifest.kind,
            labels=manifest.labels,
            context_length=manifest.architecture.context_length,
            chat=manifest.chat,
        )
        self.expected = False  # it was ready once, or an earlier run had deployed it: readiness waits for it
        self.idle = False  # its replicas were unloaded, as nothing asked for it: the next request loads them
        self.load_seconds = manifest.variants[record.variant].load_seconds  # of its slowest replica, lately
        self.share = 0.0  # of the model's traffic, as the router counts it
        self.scaling = asyncio.Lock()  # held while replicas are added or removed
        self.removal: asyncio.Task[None] | None = None
        self.successor: Deployment | None = None  # what is loaded to take its place
        self.predecessor: Deployment | None = None  # whose place it took, while that ends its requests
        self._leaving = False
        self._tried = False

    @property
    def record(self) -> DeploymentRecord:
        """What was asked for; `status` has the present state."""
        return self._record

    @record.setter
    def record(self, record: DeploymentRecord) -> None:
        if record.canary != self._record.canary:
            self.watch = None if record.canary is None else Watch(record.canary)
        self._record = record

    @property
    def version(self) -> ModelVersion:
        return self.record.model, self.record.version

    @property
    def name(self) -> str:
        return f"{self.record.model}/{self.record.version}"

    @property
    def state(self) -> DeploymentState:
        if self._leaving:
            return DeploymentState.UNLOADING
        # It stays deployed while its last replica is unloaded, because it gets others.
        gets_others = self.record.replicas and not self.idle
        without = DeploymentState.LOADING if gets_others else DeploymentState.IDLE
        states = {replica.state for replica in self.replicas}
        return next((state for state in PRECEDENCE if state in states), without)

    @property
    def serves(self) -> bool:
        """A request to it is answered, where it is idle once it is loaded again."""
        return self.state is DeploymentState.READY or (self.idle and not self._leaving)

    @property
    def tried(self) -> bool:
        """One of its replicas, of now or of before, was ready or failed to load."""
        self._tried = self._tried or any(replica.settled.is_set() for replica in self.replicas)
        return self._tried

    @property
    def error(self) -> str | None:
        """Why it does not serve; None where it does."""
        if self.state is DeploymentState.READY:
            return None
        errors = [replica.error for replica in self.replicas if replica.error is not None]
        return "; ".join(dict.fromkeys(errors)) or None

    @property
    def status(self) -> DeploymentRecord:
        """The record with its present state."""
        servers = {replica.server.name: replica.state for replica in self.replicas}
        notes = dict.fromkeys([self.record.note, *(replica.note for replica in self.replicas)])
        return dataclasses.replace(
            self.record,
            state=self.state,
            error=self.error,
            note="; ".join(filter(None, notes)) or None,
            servers=servers,
            artifact=self._artifact,
            rollout=self._rollout(),
            figures=None if self.watch is None else self.watch.figures,
        )

    def _rollout(self) -> Rollout | None:
        if (coming := self.successor) is not None:
            return Rollout("loading", coming.record.version, coming.record.variant)
        if (going := self.predecessor) is not None:
            return Rollout("draining", going.record.version, going.record.variant)
        return None

    @property
    def last_good(self) -> float | None:
        """When an inference last succeeded on any replica, in monotonic seconds."""
        return max((item.last_good for item in self.replicas if item.last_good is not None), default=None)

    def remember(self, kind: Literal["replaced", "rolled-back"], reason: str, **changes: Any) -> None:
        """Change the record in memory, with an event that says why."""
        figures = {} if self.watch is None else dataclasses.asdict(self.watch.figures)
        event = DeploymentEvent(now().isoformat(timespec="milliseconds"), kind, reason, figures)
        events = (*self.record.events, event)[-MAX_EVENTS:]
        self.record = dataclasses.replace(self.record, events=events, **changes)

    def become_idle(self) -> None:
        """Its replicas take no more requests. Until it is loaded again, readiness does not wait for it."""
        self.idle, self.expected = True, False
        seconds = [item.load_seconds for item in self.replicas if item.load_seconds is not None]
        self.load_seconds = max(seconds, default=self.load_seconds)
        for replica in self.replicas:
            replica.become(DeploymentState.UNLOADING)

    def leave(self) -> None:
        """It takes no more requests, and never will."""
        self._leaving = True
        for replica in self.replicas:
            replica.become(DeploymentState.UNLOADING)
        if self.successor is not None:
            self.successor.leave()

    def require_ready(self) -> None:
        """Raises Unavailable."""
        if self.state is not DeploymentState.READY:
            self.traffic.missed += 1
            error = "a replica is being loaded" if self.state is DeploymentState.IDLE else self.error
            reason = f": {error}" if error else ""
            raise Unavailable(f"{self.name} is {self.state.value}{reason}", RETRY_SECONDS)
