"""Files in OpenAI's shape."""

from __future__ import annotations

from typing import Literal, cast

from pydantic import BaseModel, Field

from api.back.store.records import FileRecord
from api.middle.schemas.base import Schema

Purpose = Literal["batch", "fine-tune", "batch_output"]


class FileForm(Schema):
    """The form's fields beside `file`."""

    purpose: Literal["batch", "fine-tune"] = Field(
        description="What the file is for: the lines of a batch, or the rows of a task of type `train`."
    )
    anchor: Literal["created_at"] | None = Field(
        default=None, alias="expires_after[anchor]", description="From when `expires_after[seconds]` counts."
    )
    seconds: int | None = Field(
        default=None,
        alias="expires_after[seconds]",
        ge=3600,
        le=2_592_000,
        description="When the file expires; at the latest after LMAAS_FILE_RETENTION_DAYS.",
    )


class FileDocument(FileForm):
    file: str = Field(
        description="JSON lines; for `fine-tune` also .csv, .tsv or .txt, by its name.",
        json_schema_extra={"contentMediaType": "application/octet-stream"},
    )


class FileView(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="Seconds since 1970.")
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, record: FileRecord) -> FileView:
        return cls(
            id=record.id,
            bytes=record.size,
            created_at=int(record.created.timestamp()),
            expires_at=int(record.expires.timestamp()),
            filename=record.filename,
            purpose=cast("Purpose", record.purpose),
        )


class FileFilter(Schema):
    purpose: Purpose | None = Field(default=None, description="Only files of this purpose.")
    limit: int = Field(default=1000, ge=1, le=10_000, description="The most files to return.")
    order: Literal["asc", "desc"] = Field(default="desc", description="By age; desc: newest first.")
    after: str | None = Field(default=None, max_length=64, description="Id of the file to go on after.")


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileView]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
