"""Servers and health."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from api.back.cluster.records import ServerRecord


class ServerView(BaseModel):
    name: str
    state: Literal["starting", "ready", "restarting", "stopped"]
    pid: int | None
    grpc_address: str
    http_address: str
    metrics_address: str
    outstanding: int = Field(description="Requests in flight.")
    models: list[str] = Field(description="`name/version` of what it holds.")
    restarts: int
    backoff: float = Field(description="Seconds until the next attempt to start it.")
    last_probe: datetime | None = Field(description="When a probe inference last succeeded.")

    @classmethod
    def of(cls, record: ServerRecord) -> ServerView:
        return cls(
            name=record.name,
            state=record.state.value,
            pid=record.pid,
            grpc_address=record.grpc_address,
            http_address=record.http_address,
            metrics_address=record.metrics_address,
            outstanding=record.outstanding,
            models=record.models,
            restarts=record.restarts,
            backoff=record.backoff,
            last_probe=record.last_probe,
        )


class Servers(BaseModel):
    object: Literal["list"] = "list"
    data: list[ServerView]


class Live(BaseModel):
    status: Literal["live", "failed"]
    detail: str | None = None


class Ready(BaseModel):
    status: Literal["ready", "not ready"]
    reasons: list[str] = Field(description="Why not.")
    probes: dict[str, float | None] = Field(description="Seconds since each deployment's last good probe.")
