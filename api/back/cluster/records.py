"""What the Cluster Manager tells its callers, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from runtime.contract import Kind, Variant


@dataclass(frozen=True, slots=True)
class Target:
    """A deployment that a request goes to."""

    deployment_id: str
    model: str
    version: int
    precision: Variant
    kind: Kind
    labels: tuple[str, ...]  # classes of a classifier, intents of an nlu model
    context_length: int  # tokens


@dataclass(frozen=True, slots=True)
class HeadAnswer:
    """What a classifier or an nlu model says of one text."""

    scores: list[float]  # probabilities, in the order of `Target.labels`
    label: str  # the likeliest
    slots: list[dict[str, Any]] | None  # nlu only: {name, value, start, end, score}


class ServerState(str, Enum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"  # it died or was killed; back after `backoff`
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """One Triton process as it is now."""

    name: str
    state: ServerState
    pid: int | None
    grpc_address: str  # host:port
    http_address: str
    metrics_address: str
    outstanding: int  # requests in flight
    models: list[str]  # `name/version` that it holds
    restarts: int  # since the façade started
    backoff: float  # seconds until the next attempt to start it, 0 while it runs
    last_probe: datetime | None  # when a probe inference last succeeded


@dataclass(frozen=True, slots=True)
class Readiness:
    """`ready` holds while every deployment answered a probe inference lately."""

    ready: bool
    reasons: list[str]  # why not, each naming its deployment or server
    probes: dict[
        str, float | None
    ]  # deployment id -> seconds since its last good probe, None where there was none
