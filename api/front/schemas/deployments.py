"""Deployments as the API shows and takes them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.back.store.records import DeploymentRecord, Rollout
from api.middle.schemas.base import ModelName, Schema, VariantName, VersionName
from api.middle.schemas.convert import Precision

MOMENT = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"


class CapacityView(Schema):
    """Load that was measured on this deployment; `lmaas perf capacity --record` writes it."""

    requests_per_second: float = Field(
        ge=0, description="The most at which the 95th percentile kept to the target."
    )
    tokens_per_second: float | None = Field(default=None, ge=0, description="Null where none are generated.")
    p95_seconds: float = Field(ge=0, description="At that load.")
    target_seconds: float = Field(gt=0)
    measured_at: str = Field(pattern=MOMENT, description="ISO 8601, with its zone.")
    command: str = Field(min_length=1, max_length=1000, description="What measures it again.")
    replicas: int | None = Field(
        default=None, ge=1, le=64, description="That took it; default: those that there are."
    )


class AutoscaleView(Schema):
    """Bounds within which the number of replicas follows the load."""

    min: int = Field(default=1, ge=0, le=64, description="Replicas; 0: none while nothing arrives.")
    max: int = Field(ge=1, le=64)
    target_utilisation: float = Field(
        default=0.7, ge=0.1, le=0.95, description="Aimed at, of what the replicas can do."
    )

    @model_validator(mode="after")
    def _ordered(self) -> AutoscaleView:
        if self.min > self.max:
            raise ValueError(f"min: {self.min} is more than max, which is {self.max}")
        return self


class CanarySettings(Schema):
    """The deployment is tried out beside the model's others: if it passes a bound, its weight becomes 0."""

    shadow: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the requests to the others that are copied to it, to compare the answers: "
        "greedy tokens, labels, the best continuation. No caller waits for a copy, or gets its answer.",
    )
    max_error_rate: float = Field(
        default=0.05, ge=0, le=1, description="How much of its requests may fail, above what fails of others."
    )
    max_latency_ratio: float = Field(
        default=2.0,
        gt=0,
        le=1000,
        description="Its median seconds of a request, or of a token that it generates, by those of others.",
    )
    max_disagreement: float | None = Field(
        default=None, ge=0, le=1, description="Share of the compared answers that may differ; null: any."
    )
    min_requests: int = Field(
        default=50, ge=1, le=100_000, description="Before which nothing is judged; for each bound apart."
    )


class CanaryView(CanarySettings):
    """The bounds, and what was found since it began, or in the last 1,000 requests."""

    requests: int = Field(default=0, description="Answered by it, copies among them.")
    requests_of_others: int = 0
    compared: int = Field(default=0, description="Copies whose answer could be compared.")
    dropped: int = Field(default=0, description="Copies for which there was no room.")
    error_rate: float = 0.0
    error_rate_of_others: float = 0.0
    latency_ratio: float | None = None
    disagreement: float | None = None
    seconds: float = Field(default=0.0, description="Since it began.")


class DeploymentEventView(BaseModel):
    moment: datetime
    kind: Literal["replaced", "rolled-back"]
    reason: str
    figures: dict[str, float | None] = Field(description="Of the canary, when it was rolled back.")


class RolloutView(BaseModel):
    """A replacement that is under way."""

    phase: Literal["loading", "draining"] = Field(
        description="loading: this version comes; draining: this one was replaced, and ends its requests."
    )
    version: int
    precision: VariantName

    @classmethod
    def of(cls, rollout: Rollout) -> RolloutView:
        return cls(phase=rollout.phase, version=rollout.version, precision=rollout.variant.value)


class DeploymentView(BaseModel):
    id: str
    model: str
    version: int
    precision: VariantName = Field(description="What is served.")
    artifact: str = Field(description="The digest that receipts of its answers have.")
    precision_asked: Precision
    note: str | None = Field(
        description="Why this precision: what its quality card says of it or of others. Where plans of "
        "TensorRT are on and ONNX Runtime computes: why."
    )
    state: Literal["loading", "ready", "unhealthy", "failed", "idle", "unloading"]
    replicas: int
    traffic_weight: int = Field(
        description="Share of the model's traffic, relative to its other deployments."
    )
    error: str | None = None
    capacity: CapacityView | None = None
    autoscale: AutoscaleView | None = Field(default=None, description="Null: replicas stay as they are.")
    servers: dict[str, Literal["loading", "ready", "unhealthy", "failed", "idle", "unloading"]] = Field(
        description="The state of its replica on each server, by the server's name."
    )
    rollout: RolloutView | None = None
    canary: CanaryView | None = None
    events: list[DeploymentEventView] = Field(description="The last 20, oldest first.")
    created: datetime

    @classmethod
    def of(cls, record: DeploymentRecord) -> DeploymentView:
        return cls(
            id=record.id,
            model=record.model,
            version=record.version,
            precision=record.variant.value,
            artifact=record.artifact,
            precision_asked=record.precision_asked,  # type: ignore[arg-type]
            note=record.note,
            state=record.state.value,
            replicas=record.replicas,
            traffic_weight=record.traffic_weight,
            error=record.error,
            capacity=None if record.capacity is None else CapacityView(**asdict(record.capacity)),
            autoscale=None if record.autoscale is None else AutoscaleView(**asdict(record.autoscale)),
            servers={name: state.value for name, state in record.servers.items()},
            rollout=None if (under_way := record.rollout) is None else RolloutView.of(under_way),
            canary=_canary(record),
            events=[DeploymentEventView(**asdict(event)) for event in record.events],
            created=record.created,
        )


def _canary(record: DeploymentRecord) -> CanaryView | None:
    if record.canary is None:
        return None
    return CanaryView(**asdict(record.canary), **({} if record.figures is None else asdict(record.figures)))


class Deployments(BaseModel):
    object: Literal["list"] = "list"
    data: list[DeploymentView]


class DeployRequest(Schema):
    model: ModelName
    version: VersionName = Field(default="latest", description="Version number or alias.")
    precision: Precision | None = Field(default=None, description="Default: the server's LMAAS_PRECISION.")
    replicas: int = Field(default=1, ge=1, le=64)
    traffic_weight: int = Field(default=100, ge=0, le=100)
    canary: CanarySettings | None = Field(default=None, description="Watch it beside the model's others.")
    autoscale: AutoscaleView | None = Field(
        default=None, description="Let the number of replicas follow the load from then on."
    )
    force: bool = Field(default=False, description="Deploy also beyond the quality budget.")


class DeploymentChange(Schema):
    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    version: VersionName | None = Field(
        default=None,
        description="Version number or alias that takes this one's place: it is loaded beside this one, "
        "proven by its golden prompts and a probe, and then gets all new requests, while this one ends those "
        "that it has. The answer comes when the new one serves. Where it does not load, this one goes on.",
    )
    precision: Precision | None = Field(
        default=None,
        description="Likewise another precision; of the same version it needs a server without that version.",
    )
    force: bool = Field(default=False, description="Replace it also by one beyond the quality budget.")
    replicas: int | None = Field(
        default=None, ge=1, le=64, description="Without autoscale, it ends scaling by load."
    )
    traffic_weight: int | None = Field(default=None, ge=0, le=100)
    capacity: CapacityView | None = None
    canary: CanarySettings | None = Field(
        default=None, description="Watch it from now on; null ends that, and leaves the weight as it is."
    )
    autoscale: AutoscaleView | None = None

    @model_validator(mode="after")
    def _something(self) -> DeploymentChange:
        if not self.model_fields_set:
            raise ValueError(
                "version: give version, precision, replicas, traffic_weight, canary, capacity or autoscale"
            )
        return self
