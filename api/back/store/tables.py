"""The tables. Times are seconds since the epoch, JSON is text, and every file is named by its sha256."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

SCHEMA_VERSION = 3  # of the tables, and of the manifests in them
metadata = MetaData()


class Moment(TypeDecorator[datetime]):
    """An aware datetime, kept as seconds since the epoch: SQLite has no type that keeps a time zone."""

    impl = Float(53)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> float | None:
        return None if value is None else value.timestamp()

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromtimestamp(value, timezone.utc)


class Json(TypeDecorator[Any]):
    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, ensure_ascii=False)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


schema = Table("schema", metadata, Column("version", Integer, nullable=False))

models = Table(
    "models",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("description", Text, nullable=False),
    Column("created", Moment, nullable=False),
)

# Outlives its model, so that a version number never names two things.
version_counters = Table(
    "version_counters",
    metadata,
    Column("model", String(64), primary_key=True),
    Column("last", Integer, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("model", ForeignKey("models.name", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("archive_sha256", String(64), nullable=False, index=True),
    Column("manifest", Text),
    Column("error", Text),
    Column("created", Moment, nullable=False),
    UniqueConstraint("model", "archive_sha256"),
)

version_files = Table(
    "version_files",
    metadata,
    Column("model", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("path", String(255), primary_key=True),
    Column("sha256", String(64), nullable=False, index=True),
    Column("size", Integer, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"], ondelete="CASCADE"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("model", String(64), primary_key=True),
    Column("alias", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"], ondelete="CASCADE"),
)

deployments = Table(
    "deployments",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("model", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("precision_asked", String(8), nullable=False),
    Column("variant", String(8), nullable=False),
    Column("state", String(16), nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("traffic_weight", Integer, nullable=False),
    Column("created", Moment, nullable=False),
    Column("error", Text),
    Column("capacity", Json),
    UniqueConstraint("model", "version"),
    ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("type", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("asynchronous", Boolean, nullable=False),
    Column("caller", Text, nullable=False),
    Column("model", String(128)),  # as a request may name it, whether it exists or not
    Column("parameters", Json, nullable=False),
    Column("result", Json),
    Column("error", Json),
    Column("created", Moment, nullable=False),
    Column("started", Moment),
    Column("finished", Moment),
    Index("tasks_by_age", "created", "id"),
    Index("tasks_by_state", "state"),
)
