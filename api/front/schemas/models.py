"""Models, their versions and uploads as the API shows and takes them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.back.cluster.records import MemoryRecord
from api.back.store.records import AuditRecord, DeploymentRecord, ModelRecord, VersionRecord
from api.front.schemas.deployments import DeploymentView
from api.front.schemas.tasks import TaskView
from api.middle.schemas.base import ModelName, Schema
from api.middle.schemas.convert import Precision
from runtime.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    MAX_FIGURES,
    MAX_ROWS,
    MAX_TEXT,
    Calibration,
)
from runtime.contract import Variant
from runtime.manifest import Manifest

DIGEST = r"^sha256:[0-9a-f]{64}$"
KindName = Literal["lm", "classifier", "nlu"]
WITHOUT_PRECISION = ("alias", "scale", "calibrate", "delete")  # actions whose outcome is something else


class VariantView(BaseModel):
    artifact: str = Field(description="The digest that receipts of its answers have.")
    size: int = Field(description="Bytes.")
    load_seconds: float = Field(description="Until it answered its golden prompts, when it was exported.")
    quality: dict[str, float] | None = Field(description="The quality card: differences from fp32.")

    @classmethod
    def of(cls, manifest: Manifest, variant: Variant) -> VariantView:
        item = manifest.variants[variant]
        return cls(
            artifact=manifest.digest(variant),
            size=item.size,
            load_seconds=item.load_seconds,
            quality=item.quality,
        )


class CalibrationSettings(Schema):
    """What `lmaas calibrate` finds from labelled rows."""

    temperature: float = Field(
        default=1.0,
        ge=LOWEST_TEMPERATURE,
        le=HIGHEST_TEMPERATURE,
        description="The logits of the labels are divided by it before they become probabilities.",
    )
    threshold: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="An answer with no score as high abstains; null: none does.",
    )
    criterion: str = Field(
        default="", max_length=MAX_TEXT, description="By which the threshold was chosen, for people."
    )
    rows: int = Field(default=0, ge=0, le=MAX_ROWS, description="That it was found from.")
    figures: dict[Annotated[str, Field(max_length=MAX_TEXT)], float] = Field(
        default_factory=dict, max_length=MAX_FIGURES, description="Measured on those rows, by name."
    )

    @classmethod
    def of(cls, calibration: Calibration) -> CalibrationSettings:
        return cls(**asdict(calibration))


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
    calibration: CalibrationSettings | None = Field(
        description="What corrects its scores; null: they are as the model gives them."
    )
    created: datetime

    @classmethod
    def of(cls, record: VersionRecord) -> VersionView:
        manifest = record.manifest
        return cls(
            model=record.model,
            version=record.version,
            state=record.state.value,
            kind=record.kind.value if record.kind else None,
            archive_sha256=record.archive_sha256,
            variants={name.value: VariantView.of(manifest, name) for name in manifest.variants}
            if manifest
            else {},
            labels=list(manifest.labels) if manifest else [],
            slot_labels=list(manifest.slot_labels) if manifest else [],
            context_length=manifest.architecture.context_length if manifest else None,
            provenance=manifest.provenance if manifest else {},
            error=record.error,
            calibration=None if record.calibration is None else CalibrationSettings.of(record.calibration),
            created=record.created,
        )


class MemoryView(BaseModel):
    """In bytes; of the GPU where the servers compute on one."""

    needed: dict[str, int] = Field(
        description="By precision: the most that a replica takes, with its process, weights and KV cache. A "
        "deployment that does not fit is refused."
    )
    free: int | None = Field(description="On the server that has most of it; null: unknown.")

    @classmethod
    def of(cls, record: MemoryRecord) -> MemoryView:
        return cls(needed={name.value: size for name, size in record.needed.items()}, free=record.free)


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
    serving: list[str] = Field(
        description="Deployed versions that answer, idle ones among them, with their precision: `1 int8`."
    )
    deployments: list[DeploymentView]
    max_model_len: int | None = Field(
        description="Tokens that the context holds, the smallest of the deployed versions; null: none is."
    )

    @classmethod
    def of(
        cls, record: ModelRecord, deployments: list[DeploymentRecord], context_length: int | None
    ) -> ModelView:
        own = [item for item in deployments if item.model == record.name]
        return cls(
            id=record.name,
            created=int(record.created.timestamp()),
            kind=record.kind.value if record.kind else None,
            description=record.description,
            aliases=record.aliases,
            versions=list(record.versions),
            serving=[
                f"{item.version} {item.variant.value}"
                for item in own
                if item.state.value in ("ready", "idle")
            ],
            deployments=[DeploymentView.of(item) for item in own],
            max_model_len=context_length,
        )


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelView]


class ModelChange(Schema):
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"description": {"type": "string"}}, "required": ["description"]},
                {"properties": {"aliases": {"type": "object"}}, "required": ["aliases"]},
            ]
        }
    )

    description: Annotated[str, Field(max_length=2000)] | None = None
    aliases: dict[str, int | None] | None = Field(
        default=None, description="Alias to version; null removes it. Others stay."
    )

    @model_validator(mode="after")
    def _something(self) -> ModelChange:
        if self.description is None and self.aliases is None:
            raise ValueError("description: give description, aliases or both")
        return self


class HistoryFilter(Schema):
    limit: int = Field(default=50, ge=1, le=500, description="The most entries to return.")
    before: str | None = Field(default=None, max_length=64, description="Id of the entry to go on after.")


class HistoryEntry(BaseModel):
    id: str
    at: datetime
    actor: str | None = Field(
        description="Id of the API key; `autoscaler`, `rollback`: the server itself; null: no key."
    )
    name: str | None = Field(description="Of the key.")
    action: Literal[
        "deploy",
        "replace",
        "scale",
        "end-canary",
        "rollback",
        "undeploy",
        "alias",
        "calibrate",
        "delete",
    ]
    version: int | None = Field(description="Null: an alias was removed, or all versions were deleted.")
    precision: str | None = Field(description="Of a deployment.")
    replicas: int | None = Field(description="That it was scaled to.")
    alias: str | None

    @classmethod
    def of(cls, record: AuditRecord) -> HistoryEntry:
        kind, _, what = record.target.split("/", 2)[2].partition("/")
        is_alias, is_scale = kind == "aliases", record.action == "scale"
        number = record.outcome if is_alias else what
        return cls(
            id=record.id,
            at=record.at,
            actor=record.actor or None,
            name=record.name,
            action=record.action,  # type: ignore[arg-type]
            version=int(number) if number.isdigit() else None,
            precision=None if record.action in WITHOUT_PRECISION else record.outcome,
            replicas=int(record.outcome) if is_scale else None,
            alias=what if is_alias else None,
        )


class History(BaseModel):
    object: Literal["list"] = "list"
    data: list[HistoryEntry] = Field(description="Newest first.")
    has_more: bool


class DeleteQuery(Schema):
    force: bool = Field(
        default=False, description="Undeploy it first; without, 409 names the deployments that use it."
    )


class UploadForm(Schema):
    """Fields of the multipart form; `file` is the archive itself."""

    name: ModelName
    deploy: bool = Field(default=False, description="Deploy the version once it is converted.")
    precision: Precision | None = Field(default=None, description="Precision of that deployment.")
    force: bool = Field(default=False, description="Deploy it also beyond the quality budget.")


class UploadOfBlob(UploadForm):
    """The same, of an archive that was sent to `/v1/blobs` before."""

    blob: str = Field(pattern=DIGEST, description="Its digest, `sha256:` and 64 hexadecimal digits.")


class BlobView(BaseModel):
    digest: str
    received: int = Field(description="Bytes from its beginning that are here.")
    stored: bool = Field(description="All of it is here, and has this digest.")


class UploadDocument(UploadForm):
    """The form as the OpenAPI document shows it."""

    file: str = Field(
        description="A .tar, .tar.gz, .tar.zst or .zip of a checkpoint or an artifact.",
        json_schema_extra={"contentMediaType": "application/octet-stream"},
    )


class Uploaded(BaseModel):
    model: str
    version: int
    state: Literal["uploaded", "converting", "ready", "failed"]
    new: bool = Field(description="False: these bytes were uploaded before, and made this version.")
    archive_sha256: str
    task: TaskView = Field(description="The conversion, and the deployment where asked for.")
