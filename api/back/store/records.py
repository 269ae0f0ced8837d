"""What the store keeps, as plain values; rows of the database become these before they leave the room."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Any, Literal

from api.caller import Caller, Limits, Scope
from api.errors import ApiError, FieldError
from runtime.calibration import Calibration
from runtime.contract import Kind, Variant
from runtime.manifest import Manifest

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
    IDLE = "idle"  # it has no replicas, as nothing asks for it: the next request brings them
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
class Received:
    """How much of an upload is here."""

    size: int  # bytes from its beginning
    stored: bool  # all of it, and verified
    in_order: bool = True  # False: the part that was sent does not begin where these end


@dataclass(frozen=True, slots=True)
class ModelRecord:
    name: str
    kind: Kind | None  # None until a version is ready
    description: str
    aliases: dict[str, int]  # alias -> version, `latest` among them where a version is ready
    created: datetime
    versions: tuple[int, ...] = ()  # lowest first


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
    calibration: Calibration | None = None  # None: its scores are as the model gives them


@dataclass(frozen=True, slots=True)
class Capacity:
    """The most that a deployment took while its 95th percentile kept to a target, as somebody measured it."""

    requests_per_second: float
    tokens_per_second: float | None  # None where none are generated
    p95_seconds: float
    target_seconds: float
    measured_at: str  # ISO 8601
    command: str  # that measures it again
    replicas: int | None = None  # that took it; None in records of earlier releases: one


@dataclass(frozen=True, slots=True)
class Autoscale:
    """The bounds within which a deployment is scaled by its load."""

    min: int  # replicas; 0: none while nothing arrives
    max: int
    target_utilisation: float = 0.7  # of what the replicas can do


@dataclass(frozen=True, slots=True)
class Rollout:
    """A replacement of a deployment's version or precision that is under way."""

    phase: Literal[
        "loading", "draining"
    ]  # loading: this one comes; draining: this one was replaced, and ends its requests
    version: int
    variant: Variant


@dataclass(frozen=True, slots=True)
class CanaryPolicy:
    """What a deployment that is tried out beside the model's others must keep to, to keep its traffic."""

    shadow: float  # share of the others' requests that are copied to it
    max_error_rate: float  # above that of the others
    max_latency_ratio: float  # its median seconds of a request, or of a token, by those of the others
    max_disagreement: float | None  # share of the compared answers; None: not judged
    min_requests: int  # before which nothing is judged


@dataclass(frozen=True, slots=True)
class CanaryFigures:
    """What was found of a canary since it began, or in the last requests."""

    requests: int  # answered by it, copies among them
    requests_of_others: int
    compared: int  # copies whose answer could be compared
    dropped: int  # copies for which there was no room
    error_rate: float
    error_rate_of_others: float
    latency_ratio: float | None
    disagreement: float | None
    seconds: float  # since it began


@dataclass(frozen=True, slots=True)
class DeploymentEvent:
    """What happened to a deployment, other than by a wish for it alone."""

    moment: str  # ISO 8601
    kind: Literal["replaced", "rolled-back"]
    reason: str
    figures: dict[str, float | None] = field(default_factory=dict)


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
    canary: CanaryPolicy | None = None
    events: tuple[DeploymentEvent, ...] = ()  # the last ones, oldest first
    autoscale: Autoscale | None = None  # None: `replicas` stays as it is
    # Why this variant, by its quality card, and what its replicas say of how they compute; not stored.
    note: str | None = None
    artifact: str = field(default="", compare=False)  # the digest of what is served; not stored
    # The state of the replica on each server, by the server's name; not stored.
    servers: dict[str, DeploymentState] = field(default_factory=dict, compare=False)
    rollout: Rollout | None = field(default=None, compare=False)  # not stored
    figures: CanaryFigures | None = field(default=None, compare=False)  # of a canary; not stored


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A caller's file; its bytes are a blob."""

    id: str
    owner: str  # a caller's fairness key: no other caller sees the file
    filename: str  # as the caller named it
    purpose: str
    sha256: str
    size: int  # bytes
    created: datetime
    expires: datetime  # when it may be deleted


class BatchState(str, Enum):
    """As OpenAI names them."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def open(self) -> bool:
        return self in (self.VALIDATING, self.IN_PROGRESS, self.FINALIZING, self.CANCELLING)


@dataclass(frozen=True, slots=True)
class BatchError:
    """Why a batch was refused: what is wrong with one line of its file, or with the whole file."""

    code: str
    message: str
    line: int | None = None  # from 1
    param: str | None = None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What one line was answered, as a line of the output file or of the error file."""

    number: int  # of the line in the input file, from 1
    failed: bool
    line: str


@dataclass(frozen=True, slots=True)
class BatchRecord:
    id: str
    caller: Caller
    endpoint: str
    completion_window: str  # as the caller wrote it
    input_file: str
    expires: datetime  # when what is not done expires
    created: datetime
    state: BatchState = BatchState.VALIDATING
    times: dict[str, float] = field(default_factory=dict)  # state -> when it began, seconds since the epoch
    output_file: str | None = None
    error_file: str | None = None
    notes: dict[str, str] | None = None  # the caller's own
    errors: tuple[BatchError, ...] = ()
    total: int = 0  # lines
    completed: int = 0
    failed: int = 0
    worker: str | None = None  # that works on it
    attempt: int = 0  # how often it was claimed


@dataclass(frozen=True, slots=True)
class TaskError:
    """Why a task failed: the error's slug, its sentence, and the fields that were wrong."""

    slug: str
    detail: str
    errors: tuple[FieldError, ...] = ()

    @classmethod
    def of(cls, error: ApiError) -> TaskError:
        return cls(error.slug, error.detail, error.errors)


@dataclass(frozen=True, slots=True)
class TaskRecord:
    id: str
    type: str
    state: TaskState
    asynchronous: bool
    caller: Caller
    model: str | None
    parameters: dict[str, Any]
    result: dict[str, Any] | None = None
    error: TaskError | None = None
    created: datetime = field(default_factory=now)
    started: datetime | None = None
    finished: datetime | None = None
    lane: str = "models"  # which workers take it
    owner: str | None = None  # the worker that runs it, or will
    attempt: int = 0  # how often it was claimed
    cancel_requested: bool = False  # its owner is to cancel it
    runs: int = 0  # how often its handler was started
    interruptions: int = 0  # how often it was running when its owner was lost
    idempotency_key: str | None = None  # a digest of the caller and the key that it sent
    fingerprint: str | None = None  # a digest of what came with the key
    callback_url: str | None = None  # is called when the task is over
    callback_due: datetime | None = None  # at this time next; None: no more
    callback_attempts: int = 0


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key: its id, `_` and its secret, of which only the digest is kept."""

    id: str  # public
    name: str
    secret_sha256: str = field(repr=False)
    scopes: frozenset[Scope]
    limits: Limits
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None

    def has_secret(self, secret: str) -> bool:
        """Whether it is this key's secret; compared in constant time."""
        return hmac.compare_digest(self.secret_sha256, hashlib.sha256(secret.encode()).hexdigest())

    def refusal(self, moment: datetime) -> str | None:
        """Why the key is not valid any more, in words that follow its id; None: it is."""
        if self.revoked is not None and self.revoked <= moment:
            return f"was revoked at {self.revoked:%Y-%m-%d %H:%M:%S} UTC"
        if self.expires is not None and self.expires <= moment:
            return f"expired at {self.expires:%Y-%m-%d %H:%M:%S} UTC"
        return None


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What a key used of a model on a day; `key_id` is "" where no key was needed."""

    key_id: str
    model: str
    day: str  # YYYY-MM-DD, UTC
    requests: int
    prompt_tokens: int
    completion_tokens: int
    name: str | None = None  # of the key; not stored here


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A change that was asked for."""

    id: str  # in order of time
    at: datetime
    # Id of the API key, "" where none was needed; an account of the machine; `autoscaler`; or `rollback`.
    actor: str
    address: str
    action: str  # the method of a request, or a command
    target: str  # the path of a request, or what the command names
    outcome: str  # the status of the answer, or "done"
    request_id: str | None = None
    name: str | None = None  # of the key; not stored here
