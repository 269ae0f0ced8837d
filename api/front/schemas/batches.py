"""Batches in OpenAI's shape."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.back.store.records import BatchRecord, BatchState
from api.middle.schemas.base import Schema

Endpoint = Literal[
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/generate",
    "/v1/classify",
    "/v1/infer",
    "/v1/nlu",
    "/v1/next",
    "/v1/score",
]
Status = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]
Key = Annotated[str, Field(min_length=1, max_length=64)]
Value = Annotated[str, Field(max_length=512)]


class BatchRequest(Schema):
    input_file_id: str = Field(
        min_length=1, max_length=64, description="A file of purpose `batch`, with one request a line."
    )
    endpoint: Endpoint = Field(description="The route of all its requests.")
    completion_window: Literal["24h"] = Field(description="What is not done by then expires.")
    metadata: dict[Key, Value] | None = Field(
        default=None, max_length=16, description="Your own notes, at most 16."
    )


class BatchFilter(Schema):
    limit: int = Field(default=20, ge=1, le=100, description="The most batches to return.")
    after: str | None = Field(default=None, max_length=64, description="Id of the batch to go on after.")


class BatchErrorView(BaseModel):
    code: str
    message: str
    line: int | None = Field(description="Of the input file, from 1; null: the whole file.")
    param: str | None


class BatchErrors(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchErrorView]


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class BatchView(BaseModel):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: Endpoint
    errors: BatchErrors | None = Field(description="Why the file was refused.")
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None = Field(description="Requests that were answered; null: none, or not over.")
    error_file_id: str | None = Field(description="Requests that failed, or had no turn.")
    created_at: int = Field(description="Seconds since 1970, as all times.")
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, record: BatchRecord) -> BatchView:
        later = [state.value for state in BatchState if state is not BatchState.VALIDATING]
        times: dict[str, Any] = {
            f"{name}_at": int(record.times[name]) for name in later if name in record.times
        }
        errors = [
            BatchErrorView(code=error.code, message=error.message, line=error.line, param=error.param)
            for error in record.errors
        ]
        return cls(
            id=record.id,
            endpoint=record.endpoint,  # type: ignore[arg-type]
            errors=BatchErrors(data=errors) if errors else None,
            input_file_id=record.input_file,
            completion_window=record.completion_window,
            status=record.state.value,
            output_file_id=record.output_file,
            error_file_id=record.error_file,
            created_at=int(record.created.timestamp()),
            expires_at=int(record.expires.timestamp()),
            request_counts=RequestCounts(
                total=record.total, completed=record.completed, failed=record.failed
            ),
            metadata=record.notes,
            **times,
        )


class BatchList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchView] = Field(description="Newest first.")
    first_id: str | None
    last_id: str | None
    has_more: bool
