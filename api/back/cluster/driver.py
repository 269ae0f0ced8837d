"""The wall between the cluster and the place where a Triton runs: a process here, a pod elsewhere.

A driver holds the mechanics of one server. When a server starts, how often it may be restarted, and which
models it serves, is decided above it, by the `Supervisor` and the `ReplicaController`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from api.back.cluster.addresses import Endpoints
from api.back.cluster.records import ModelVersion
from api.back.cluster.repository import ModelRepository
from runtime.contract import Device

START_SECONDS = 30.0  # that the first attempt to start a server may take


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server reports about the machine that it runs on."""

    machine: str  # servers with the same name share its memory; a GPU counts as one
    device: Device
    free_memory: int | None  # bytes, of the GPU where it computes on one; None: unknown
    has_kernels: bool  # it uses the operators of `kernels`


class ServerDriver(Protocol):
    """One Triton server. The pair (model, version) names a model version that it holds."""

    @property
    def name(self) -> str:
        """Unique in the cluster."""

    @property
    def shared(self) -> bool:
        """Whether other façades may use it too, and heal its models as well."""

    @property
    def leaving(self) -> bool:
        """Whether it is about to end, or has ended for good: another server should take its replicas."""

    @property
    def repository(self) -> ModelRepository:
        """What this server loads models from."""

    @property
    def endpoints(self) -> Endpoints:
        """Where it listens, or will listen after the next start."""

    @property
    def key(self) -> str:
        """The key of Triton's control routes, new with each start."""

    @property
    def kernels(self) -> str | None:
        """What computes int8 there: a level of `kernels.library`, or onnxruntime; None: unknown."""

    @property
    def pid(self) -> int | None:
        """The server's process id; None where it does not run, or runs on another machine."""

    async def start(self, seconds: float) -> None:
        """Start it, and return when it can load models. Raises ServerFault after `seconds`, or OSError."""

    async def died(self) -> str:
        """Return when the server has ended, with one line that says how."""

    async def kill(self) -> None:
        """End the server and all processes of its models at once; return when they are gone."""

    async def stop(self) -> None:
        """The façade ends: `kill` a server that it started, and leave any other."""

    async def capabilities(self) -> Capabilities:
        """What its machine can do now."""

    async def model_runs(self, version: ModelVersion) -> bool:
        """Whether a process of this model version exists."""

    def watch_model(self, version: ModelVersion) -> AbstractAsyncContextManager[asyncio.Event]:
        """Within the context: an event that is set when one of the version's present processes ends."""

    async def end_model(self, version: ModelVersion) -> None:
        """Kill the processes of a version, one that hangs as well. The server itself goes on."""

    async def await_model_end(self, version: ModelVersion, seconds: float) -> None:
        """Wait until the processes of an unloaded version are gone; kill them after `seconds`."""

    def cpu_seconds(self, version: ModelVersion) -> Mapping[int, float]:
        """The CPU time of each process of a version; of the server where there is none yet. Blocking."""
