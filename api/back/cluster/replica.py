"""One replica: a deployment on one server, with its health and the requests that it serves."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

from api.back.cluster.records import ModelVersion
from api.back.cluster.supervisor import Supervisor
from api.back.cluster.triton_client import TritonClient
from api.back.store.records import DeploymentState, VersionRecord
from api.errors import Unavailable
from runtime.contract import Kind, Variant
from runtime.manifest import Manifest

_turns = itertools.count(1)


class Traffic:
    """What came for a deployment, and what of it was finished: sums since the façade began.

    Shared by a deployment and its replicas.
    """

    __slots__ = ("finished", "missed", "started")

    def __init__(self) -> None:
        self.started = 0  # requests that were given to a replica
        self.missed = 0  # requests that came while no replica answered
        self.finished = 0  # requests that were answered

    @property
    def arrivals(self) -> int:
        return self.started + self.missed


class Replica:
    """Times are those of `time.monotonic`, in seconds."""

    def __init__(
        self,
        version: VersionRecord,
        manifest: Manifest,
        variant: Variant,
        server: Supervisor,
        traffic: Traffic,
    ) -> None:
        self.version_record = version
        self.manifest = manifest
        self.variant = variant
        self.server = server
        self.state = DeploymentState.LOADING
        self.error: str | None = None  # why it is unhealthy or failed
        self.note: str | None = None  # what its last load says of how it computes
        self.last_good: float | None = None  # when an inference last succeeded, a caller's or a probe
        self.load_seconds: float | None = None  # that its latest load took, until a probe was answered
        self.in_flight = 0  # requests of callers
        self.traffic = traffic
        self.last_turn = 0  # grows with each request: of two idle replicas the one that rested longer is next
        self.loaded_by: TritonClient | None = None  # the client that loaded it; None: it was not loaded yet
        self.settled = asyncio.Event()  # it was ready, failed, or was removed, once
        self.suspect = asyncio.Event()  # a request failed in a way that calls for a probe
        self.changed = asyncio.Event()  # set at the next change of its state or of what is thought of it

    @property
    def version(self) -> ModelVersion:
        return self.version_record.model, self.version_record.version

    @property
    def name(self) -> str:
        return f"{self.version_record.model}/{self.version_record.version}"

    @property
    def kind(self) -> Kind:
        return self.manifest.kind

    @property
    def ready(self) -> bool:
        return self.state is DeploymentState.READY

    @property
    def away(self) -> bool:
        """Its server is down, or a request just failed: another replica should take the next one."""
        return self.suspect.is_set() or not self.server.up

    def become(self, state: DeploymentState, error: str | None = None) -> None:
        if self.state is DeploymentState.UNLOADING:
            return  # the last state
        self.state, self.error = state, error
        if state in (DeploymentState.READY, DeploymentState.FAILED, DeploymentState.UNLOADING):
            self.settled.set()
        self._tell()

    def trust(self) -> None:
        """A probe was good: it takes requests as the others do."""
        if self.suspect.is_set():
            self.suspect.clear()
            self._tell()

    def _tell(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def answered(self) -> None:
        """An inference succeeded just now."""
        self.last_good = time.monotonic()

    def answered_since(self, moment: float) -> bool:
        return self.last_good is not None and self.last_good >= moment

    @contextmanager
    def serving(self) -> Iterator[TritonClient]:
        """The client for one request of a caller. Unavailable leads to a probe at once."""
        self.in_flight += 1
        self.traffic.started += 1
        self.last_turn = next(_turns)
        try:
            yield self.server.client
            self.traffic.finished += 1
        except Unavailable:
            self.suspect.set()
            raise
        finally:
            self.in_flight -= 1
