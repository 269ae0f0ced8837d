"""Servers and health."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from api.back.cluster.records import CapacityRecord, ServerRecord
from api.front.schemas.deployments import AutoscaleView
from api.middle.schemas.base import Schema


class ServerView(BaseModel):
    name: str
    state: Literal["starting", "ready", "degraded", "draining", "dead"] = Field(
        description="degraded: it runs, but a replica on it does not answer. draining: it takes no new "
        "replica, and requests only where no other replica can. dead: it is started again after `backoff`."
    )
    pid: int | None
    kernels: str | None = Field(
        description="What computes int8: our operators with the instructions avx512vnni, avxvnni, avx2 or "
        "reference, or onnxruntime. Null where the server runs elsewhere."
    )
    grpc_address: str
    http_address: str | None = Field(description="Null where LMAAS_TRITON_HTTP_PORT gives it no HTTP.")
    metrics_address: str
    outstanding: int = Field(description="Requests in flight.")
    models: list[str] = Field(description="`name/version` of what it holds.")
    restarts: int
    backoff: float = Field(description="Seconds until the next attempt to start it.")
    error: str | None = Field(description="How it died, or why it did not start.")
    last_probe: datetime | None = Field(description="When a probe inference last succeeded.")

    @classmethod
    def of(cls, record: ServerRecord) -> ServerView:
        return cls(
            name=record.name,
            state=record.state.value,
            pid=record.pid,
            kernels=record.kernels,
            grpc_address=record.grpc_address,
            http_address=record.http_address,
            metrics_address=record.metrics_address,
            outstanding=record.outstanding,
            models=record.models,
            restarts=record.restarts,
            backoff=record.backoff,
            error=record.error,
            last_probe=record.last_probe,
        )


class Servers(BaseModel):
    object: Literal["list"] = "list"
    data: list[ServerView]


class ServerChange(Schema):
    draining: bool = Field(
        description="Whether it takes no new replica, and requests only where no other replica can. It holds "
        "until the appliance is started again."
    )


class DeploymentCapacity(BaseModel):
    """Rates are requests per second."""

    deployment_id: str
    model: str
    version: int
    replicas: int = Field(description="Replicas that answer.")
    wanted: int = Field(description="Replicas that the present load needs.")
    possible: int = Field(description="Replicas that the servers and their cores hold.")
    missing: int = Field(description="Replicas.")
    arrival_rate: float
    waiting: int = Field(description="Requests beyond the places of the replicas.")
    capacity: float | None = Field(description="Of one replica; null until it is known.")
    basis: str = Field(description="What the capacity is based on.")
    utilisation: float | None = Field(description="Arrivals as a share of what the replicas can do.")
    target_utilisation: float
    autoscale: AutoscaleView | None = Field(
        description="Null: this is only an estimate, and nothing is scaled."
    )
    reason: str = Field(description="For the number wanted, in words.")

    @classmethod
    def of(cls, record: CapacityRecord) -> DeploymentCapacity:
        return cls(**asdict(record))


class Capacities(BaseModel):
    object: Literal["list"] = "list"
    data: list[DeploymentCapacity]


class Live(BaseModel):
    status: Literal["live", "failed"]
    detail: str | None = None


class Serving(BaseModel):
    status: Literal["ready", "not ready"]


class Ready(BaseModel):
    status: Literal["ready", "not ready"]
    reasons: list[str] = Field(description="Why not.")
    warnings: list[str] = Field(description="What does not work although it is ready.")
    probes: dict[str, float | None] = Field(description="Seconds since each deployment's last good probe.")
