"""What API keys used, and who changed what."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from api.back.store.records import AuditRecord, UsageRecord
from api.middle.schemas.base import Schema


class UsageFilter(Schema):
    days: int = Field(default=30, ge=1, le=400, description="The last days, today among them (UTC).")
    key: str | None = Field(default=None, max_length=64, description="Only of the key with this id.")
    model: str | None = Field(default=None, max_length=128, description="Only of this model.")
    limit: int = Field(default=1000, ge=1, le=5000, description="The most rows to return.")
    offset: int = Field(default=0, ge=0, le=10_000_000, description="Rows to leave out before them.")


class UsageView(BaseModel):
    key: str | None = Field(description="Id of the API key; null: no key was needed.")
    name: str | None = Field(description="Of the key.")
    model: str
    day: str = Field(description="YYYY-MM-DD, UTC.")
    requests: int = Field(description="Tasks that the model worked on.")
    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def of(cls, record: UsageRecord) -> UsageView:
        return cls(
            key=record.key_id or None,
            name=record.name,
            model=record.model,
            day=record.day,
            requests=record.requests,
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
        )


class UsageList(BaseModel):
    object: Literal["list"] = "list"
    data: list[UsageView] = Field(description="By day, the newest first; then by key and model.")
    has_more: bool


class AuditFilter(Schema):
    limit: int = Field(default=50, ge=1, le=500, description="The most entries to return.")
    before: str | None = Field(default=None, max_length=64, description="Id of the entry to go on after.")


class AuditView(BaseModel):
    id: str
    at: datetime
    actor: str | None = Field(
        description="Id of the API key; an account of the machine; `autoscaler`, `rollback`: the server;"
        " null: no key."
    )
    name: str | None = Field(description="Of the key.")
    address: str
    action: str = Field(description="A method, a command, or what was done with a model.")
    target: str = Field(description="A path, what the command names, or a version or alias of a model.")
    outcome: str = Field(
        description="The status of the answer; done; or a model's precision, version or replicas."
    )
    request_id: str | None

    @classmethod
    def of(cls, record: AuditRecord) -> AuditView:
        fields = {name: getattr(record, name) for name in AuditRecord.__slots__}
        return cls(**{**fields, "actor": record.actor or None})


class AuditList(BaseModel):
    object: Literal["list"] = "list"
    data: list[AuditView] = Field(description="Newest first.")
    has_more: bool
