"""What the store keeps, as plain values; rows of the database become these before they leave the room."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Any

from runtime.contract import Kind, Manifest, Variant

LATEST = "latest"  # the alias that no one sets: the highest version that is ready


def now() -> datetime:
    """The time that records carry: UTC, aware."""
    return datetime.now(timezone.utc)


class VersionState(str, Enum):
    UPLOADED = "uploaded"
    CONVERTING = "converting"
    READY = "ready"
    FAILED = "failed"


class DeploymentState(str, Enum):
    LOADING = "loading"
    READY = "ready"
    UNHEALTHY = "unhealthy"  # its last probe failed; healing is under way
    FAILED = "failed"  # it could not be loaded; `error` says why
    UNLOADING = "unloading"


class TaskState(str, Enum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def finished(self) -> bool:
        return self not in (TaskState.QUEUED, TaskState.RUNNING)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file in the blob store."""

    sha256: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class ModelRecord:
    name: str
    kind: Kind | None  # None until a version is ready
    description: str
    aliases: dict[str, int]  # alias -> version, `latest` among them where a version is ready
    created: datetime


@dataclass(frozen=True, slots=True)
class VersionRecord:
    model: str
    version: int
    state: VersionState
    kind: Kind | None  # None until ready
    archive_sha256: str
    files: dict[str, StoredFile]  # the artifact's files by path, forward slashes; empty until ready
    manifest: Manifest | None  # None until ready
    error: str | None  # why it failed
    created: datetime


@dataclass(frozen=True, slots=True)
class Capacity:
    """The most that a deployment took while its 95th percentile kept to a target, as somebody measured it."""

    requests_per_second: float
    tokens_per_second: float | None  # None where none are generated
    p95_seconds: float
    target_seconds: float
    measured_at: str  # ISO 8601
    command: str  # that measures it again


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    id: str
    model: str
    version: int
    precision_asked: str  # auto, or a variant
    variant: Variant  # what "auto" became
    state: DeploymentState
    replicas: int
    traffic_weight: int  # 0..100, relative to the model's other deployments
    created: datetime
    error: str | None = None  # why it is unhealthy or failed
    capacity: Capacity | None = None
    note: str | None = None  # why this variant; derived from its quality card, and not stored


@dataclass(frozen=True, slots=True)
class TaskRecord:
    id: str
    type: str
    state: TaskState
    asynchronous: bool
    caller: str  # the caller's address
    model: str | None
    parameters: dict[str, Any]
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    created: datetime = field(default_factory=now)
    started: datetime | None = None
    finished: datetime | None = None
