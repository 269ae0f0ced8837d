"""Task `convert`: from an uploaded archive to an artifact, and on to a deployment where asked for."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from api.middle.schemas.base import ModelName, TaskParameters, VariantName, VersionName

Precision = Literal["auto"] | VariantName


class ConvertParameters(TaskParameters):
    model: ModelName = Field(description="Model that the upload belongs to.")
    version: VersionName = Field(description="Version to convert.")
    deploy: bool = Field(default=False, description="Deploy the version when it is converted.")
    precision: Precision | None = Field(
        default=None, description="Precision of that deployment; default: the server's."
    )
    force: bool = Field(default=False, description="Deploy it also beyond the quality budget.")


class ConvertAnswer(BaseModel):
    model: str
    version: int
    kind: Literal["lm", "classifier", "nlu"]
    variants: list[str] = Field(description="Precisions that the artifact holds.")
    deployment: str | None = Field(default=None, description="Id of the deployment, where one was asked for.")
    precision: VariantName | None = Field(default=None, description="What that deployment serves.")
    note: str | None = Field(default=None, description="Why it serves that precision.")
    notes: str | None = Field(
        default=None,
        description="What of the upload was left out, and where serving differs from transformers.",
    )
