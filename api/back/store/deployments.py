"""Deployment records: what the cluster should hold, so that a start can bring it back."""

from __future__ import annotations

import dataclasses
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from api.back.store.database import Database
from api.back.store.records import (
    Autoscale,
    CanaryPolicy,
    Capacity,
    DeploymentEvent,
    DeploymentRecord,
    DeploymentState,
    now,
)
from api.back.store.tables import deployments, workers
from api.errors import Conflict, NotFound
from runtime.contract import Variant

Deployments = list[DeploymentRecord]  # inside the class, `list` is its own method


class DeploymentStore:
    """Each call is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: DeploymentRecord) -> None:
        """Raises Conflict where that version is deployed already, or is gone."""
        try:
            async with self._database.write() as connection:
                await connection.execute(insert(deployments).values(_row(record)))
        except IntegrityError:
            raise _taken(record) from None

    async def update(self, record: DeploymentRecord) -> None:
        """Raises NotFound; Conflict as `add`, where the version changes."""
        here = deployments.c.id == record.id
        try:
            async with self._database.write() as connection:
                result = await connection.execute(update(deployments).where(here).values(_row(record)))
        except IntegrityError:
            raise _taken(record) from None
        if result.rowcount == 0:
            raise _missing(record.id)

    async def list(self, model: str | None = None) -> Deployments:
        """Oldest first."""
        query = select(deployments).order_by(deployments.c.created, deployments.c.id)
        if model is not None:
            query = query.where(deployments.c.model == model)
        async with self._database.read() as connection:
            return [_record(row) for row in await connection.execute(query)]

    async def facades(self) -> frozenset[str]:
        """The ids of those that serve from this database: their leases last."""
        query = select(workers.c.id).where(workers.c.lease_until > now())
        async with self._database.read() as connection:
            return frozenset(await connection.scalars(query))

    async def delete(self, deployment_id: str) -> None:
        """Raises NotFound."""
        async with self._database.write() as connection:
            result = await connection.execute(delete(deployments).where(deployments.c.id == deployment_id))
        if result.rowcount == 0:
            raise _missing(deployment_id)


def _taken(record: DeploymentRecord) -> Conflict:
    return Conflict(f"model {record.model!r} version {record.version} is deployed already, or was deleted")


def _missing(deployment_id: str) -> NotFound:
    return NotFound(f"deployment {deployment_id!r} does not exist")


def _row(record: DeploymentRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "model": record.model,
        "version": record.version,
        "precision_asked": record.precision_asked,
        "variant": record.variant.value,
        "state": record.state.value,
        "replicas": record.replicas,
        "traffic_weight": record.traffic_weight,
        "created": record.created,
        "error": record.error,
        "capacity": None if record.capacity is None else dataclasses.asdict(record.capacity),
        "canary": None if record.canary is None else dataclasses.asdict(record.canary),
        "events": [dataclasses.asdict(event) for event in record.events],
        "autoscale": None if record.autoscale is None else dataclasses.asdict(record.autoscale),
    }


def _record(row: Row[Any]) -> DeploymentRecord:
    fields = dict(row._mapping)
    fields["variant"] = Variant(row.variant)
    fields["state"] = DeploymentState(row.state)
    fields["capacity"] = None if row.capacity is None else Capacity(**row.capacity)
    fields["canary"] = None if row.canary is None else CanaryPolicy(**row.canary)
    fields["events"] = tuple(DeploymentEvent(**event) for event in row.events or ())
    fields["autoscale"] = None if row.autoscale is None else Autoscale(**row.autoscale)
    return DeploymentRecord(**fields)
