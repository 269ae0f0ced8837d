"""What the Cluster Manager returns to its callers, as plain values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from api.back.store.records import Autoscale, DeploymentRecord
from runtime.contract import Kind, Variant
from runtime.messages import Slot

ModelVersion = tuple[str, int]  # a model and a version of it, as Triton names them
# A change that no caller asked for: actor (`autoscaler`, `rollback`), action, deployment, outcome.
Report = Callable[[str, str, DeploymentRecord, str], Awaitable[None]]


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
    # Of a language model: its chat template, and the texts of special tokens that this names.
    chat: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class HeadAnswer:
    """What a classifier or an nlu model says of one text."""

    scores: list[float]  # probabilities, in the order of `Target.labels`
    label: str  # the likeliest
    slots: list[Slot] | None  # nlu only


class ServerState(str, Enum):
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"  # it runs, but a replica on it does not answer
    DRAINING = "draining"  # it takes no new replica, and requests only where no other replica can
    DEAD = "dead"  # it ended or did not start; the next attempt comes after `backoff`


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """One server of the pool as it is now."""

    name: str
    state: ServerState
    pid: int | None
    kernels: str | None  # a level of `kernels.library`, or onnxruntime; None: unknown
    grpc_address: str  # host:port
    http_address: str | None  # None: it has no HTTP
    metrics_address: str
    outstanding: int  # requests in flight
    sessions: int  # open ones with its models
    models: list[str]  # `name/version` that it holds
    restarts: int  # since the start of the façade
    backoff: float  # seconds until the next attempt to start it, 0 while it runs
    last_probe: datetime | None  # when a probe inference last succeeded
    error: str | None = None  # how it died, or why it did not start; None while it runs


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """In bytes; of the GPU where the servers compute on one."""

    needed: dict[Variant, int]  # by a replica, at most
    free: int | None  # on the server that has most; None: unknown


@dataclass(frozen=True, slots=True)
class CapacityRecord:
    """What a deployment is asked for, what it can do, and what is missing. Rates are requests per second."""

    deployment_id: str
    model: str
    version: int
    replicas: int  # that answer
    wanted: int  # replicas for the present load
    possible: int  # replicas that the servers and their cores hold
    missing: int  # replicas
    arrival_rate: float
    waiting: int  # requests beyond the places of the replicas
    capacity: float | None  # of one replica; None: not known yet
    basis: str  # of the capacity
    utilisation: float | None  # of the replicas, by what arrives
    target_utilisation: float
    autoscale: Autoscale | None
    reason: str  # for the number wanted, in words


@dataclass(frozen=True, slots=True)
class Readiness:
    """`ready` holds while every deployment answered a probe inference lately, by one replica at least."""

    ready: bool
    reasons: list[str]  # why not, each naming its deployment or server
    # By the deployment's id: seconds since its last good probe; None where there was none.
    probes: dict[str, float | None]
    warnings: list[str] = field(
        default_factory=list
    )  # servers and replicas that are away although it is ready
    # It is not ready, and another façade would be no better: some deployments answer, all were tried, and the
    # servers of the others are the same ones.
    enough: bool = False

    @property
    def serves(self) -> bool:
        """Whether a load balancer should send requests here."""
        return self.ready or self.enough
