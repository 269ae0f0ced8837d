"""Models, versions and deployments as the API shows and takes them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from api.back.store.records import DeploymentRecord, ModelRecord, VersionRecord
from api.front.schemas.tasks import TaskView
from api.middle.schemas.base import ModelName, Schema, VariantName, VersionName
from api.middle.schemas.convert import Precision

KindName = Literal["lm", "classifier", "nlu"]

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


class DeploymentView(BaseModel):
    id: str
    model: str
    version: int
    precision: VariantName = Field(description="What is served.")
    precision_asked: Precision
    note: str | None = Field(description="Why this precision: what its quality card says of it or of others.")
    state: Literal["loading", "ready", "unhealthy", "failed", "unloading"]
    replicas: int
    traffic_weight: int = Field(
        description="Share of the model's traffic, relative to its other deployments."
    )
    error: str | None = None
    capacity: CapacityView | None = None
    created: datetime

    @classmethod
    def of(cls, record: DeploymentRecord) -> DeploymentView:
        return cls(
            id=record.id,
            model=record.model,
            version=record.version,
            precision=record.variant.value,
            precision_asked=record.precision_asked,  # type: ignore[arg-type]
            note=record.note,
            state=record.state.value,
            replicas=record.replicas,
            traffic_weight=record.traffic_weight,
            error=record.error,
            capacity=None if record.capacity is None else CapacityView(**asdict(record.capacity)),
            created=record.created,
        )


class Deployments(BaseModel):
    object: Literal["list"] = "list"
    data: list[DeploymentView]


class DeployRequest(Schema):
    model: ModelName
    version: VersionName = Field(default="latest", description="Version number or alias.")
    precision: Precision | None = Field(default=None, description="Default: the server's LMAAS_PRECISION.")
    replicas: int = Field(default=1, ge=1, le=64)
    traffic_weight: int = Field(default=100, ge=0, le=100)
    force: bool = Field(default=False, description="Deploy also beyond the quality budget.")


class DeploymentChange(Schema):
    replicas: int | None = Field(default=None, ge=1, le=64)
    traffic_weight: int | None = Field(default=None, ge=0, le=100)
    capacity: CapacityView | None = None

    @model_validator(mode="after")
    def _something(self) -> DeploymentChange:
        if not self.model_fields_set:
            raise ValueError("replicas: give replicas, traffic_weight or capacity")
        return self


class VariantView(BaseModel):
    size: int = Field(description="Bytes.")
    load_seconds: float = Field(description="Until it answered its golden prompts, when it was exported.")
    quality: dict[str, float] | None = Field(description="The quality card: differences from fp32.")


class VersionView(BaseModel):
    model: str
    version: int
    state: Literal["uploaded", "converting", "ready", "failed"]
    kind: KindName | None
    archive_sha256: str
    variants: dict[str, VariantView] = Field(description="By precision; empty until ready.")
    labels: list[str] = Field(description="Classes of a classifier, intents of an nlu model.")
    slot_labels: list[str]
    context_length: int | None = Field(description="Tokens.")
    provenance: dict[str, str]
    error: str | None = Field(description="Why the conversion failed.")
    created: datetime

    @classmethod
    def of(cls, record: VersionRecord) -> VersionView:
        manifest = record.manifest
        variants = manifest.variants.items() if manifest else ()
        return cls(
            model=record.model,
            version=record.version,
            state=record.state.value,
            kind=record.kind.value if record.kind else None,
            archive_sha256=record.archive_sha256,
            variants={
                name.value: VariantView(size=item.size, load_seconds=item.load_seconds, quality=item.quality)
                for name, item in variants
            },
            labels=list(manifest.labels) if manifest else [],
            slot_labels=list(manifest.slot_labels) if manifest else [],
            context_length=manifest.architecture.context_length if manifest else None,
            provenance=manifest.provenance if manifest else {},
            error=record.error,
            created=record.created,
        )


class ModelView(BaseModel):
    """OpenAI's fields first, then ours."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Seconds since 1970.")
    owned_by: str = "lmaas"
    kind: KindName | None = Field(description="Null until a version is ready.")
    description: str
    aliases: dict[str, int]
    versions: list[int]
    serving: list[str] = Field(description="Deployed versions with their precision, `1 int8`.")
    deployments: list[DeploymentView]

    @classmethod
    def of(
        cls, record: ModelRecord, versions: list[VersionRecord], deployments: list[DeploymentRecord]
    ) -> ModelView:
        own = [item for item in deployments if item.model == record.name]
        return cls(
            id=record.name,
            created=int(record.created.timestamp()),
            kind=record.kind.value if record.kind else None,
            description=record.description,
            aliases=record.aliases,
            versions=[version.version for version in versions],
            serving=[f"{item.version} {item.variant.value}" for item in own if item.state.value == "ready"],
            deployments=[DeploymentView.of(item) for item in own],
        )


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelView]


class ModelChange(Schema):
    description: Annotated[str, Field(max_length=2000)] | None = None
    aliases: dict[str, int | None] | None = Field(
        default=None, description="Alias to version; null removes it. Others stay."
    )

    @model_validator(mode="after")
    def _something(self) -> ModelChange:
        if self.description is None and self.aliases is None:
            raise ValueError("description: give description, aliases or both")
        return self


class UploadForm(Schema):
    """Fields of the multipart form; `file` is the archive itself."""

    name: ModelName
    deploy: bool = Field(default=False, description="Deploy the version once it is converted.")
    precision: Precision | None = Field(default=None, description="Precision of that deployment.")
    force: bool = Field(default=False, description="Deploy it also beyond the quality budget.")


class UploadDocument(UploadForm):
    """The form as the OpenAPI document shows it."""

    file: str = Field(
        description="A .tar.gz or .zip of a checkpoint or an artifact.",
        json_schema_extra={"contentMediaType": "application/octet-stream"},
    )


class Uploaded(BaseModel):
    model: str
    version: int
    state: Literal["uploaded", "converting", "ready", "failed"]
    new: bool = Field(description="False: these bytes were uploaded before, and made this version.")
    archive_sha256: str
    task: TaskView = Field(description="The conversion, and the deployment where asked for.")
