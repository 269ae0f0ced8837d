"""The tables. Times are seconds since the epoch, JSON is text, and every file is named by its sha256."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    BigInteger,
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
    and_,
    bindparam,
)

from api.back.store.records import TaskState

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


# Read by an LMaaS from before Alembic; the revision is in Alembic's own table.
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
    Column("calibration", Text),
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
    Column("canary", Json),
    Column("events", Json),
    Column("autoscale", Json),
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
    Column("caller", Text, nullable=False),  # the address
    Column("caller_key", Text, nullable=False),
    Column("caller_scopes", Text, nullable=False),  # with a space between two, as in RFC 6749, section 3.3
    Column("model", String(128)),  # as a request may name it, whether it exists or not
    Column("parameters", Json, nullable=False),
    Column("result", Json),
    Column("error", Json),
    Column("created", Moment, nullable=False),
    Column("started", Moment),
    Column("finished", Moment),
    Column("lane", String(32), nullable=False),
    Column("owner", String(64)),  # a worker
    Column("attempt", Integer, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("runs", Integer, nullable=False),
    Column("interruptions", Integer, nullable=False),
    Column("idempotency_key", String(64)),  # a digest of the caller and its key
    Column("fingerprint", String(64)),  # a digest of what came with it
    Column("callback_url", Text),
    Column("callback_due", Moment),  # when it is called next; NULL: no more
    Column("callback_attempts", Integer, nullable=False),
    Index("tasks_by_idempotency_key", "idempotency_key", unique=True),
    Index("tasks_by_age", "created", "id"),
    Index("tasks_by_caller", "caller_key", "created", "id"),
    Index("tasks_by_state", "state"),
)

# With its values in the statement's text: an index with a condition serves only what states that condition.
OPEN = [state.value for state in TaskState if not state.finished]
IS_OPEN = tasks.c.state.in_(bindparam("open", OPEN, expanding=True, literal_execute=True))
IS_OVER = tasks.c.state.not_in(bindparam("over", OPEN, expanding=True, literal_execute=True))
for _name, _columns, _condition in (
    ("open_tasks_by_owner", (tasks.c.owner, tasks.c.created, tasks.c.id), tasks.c.state.in_(OPEN)),
    (
        "callbacks_by_time",
        (tasks.c.callback_due,),
        and_(tasks.c.callback_due.is_not(None), tasks.c.state.not_in(OPEN)),
    ),
    ("tasks_to_cancel", (tasks.c.owner,), and_(tasks.c.state.in_(OPEN), tasks.c.cancel_requested)),
):
    Index(_name, *_columns, sqlite_where=_condition, postgresql_where=_condition)

# A row has events that were reported one after another; `number` is the first one's.
task_events = Table(
    "task_events",
    metadata,
    Column("task_id", String(64), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("events", Text, nullable=False),
    Column("created", Moment, nullable=False, index=True),
)

# One lease for all tasks of a worker, as Kubernetes has one for each node: extending it writes one row.
workers = Table(
    "workers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("lease_until", Moment, nullable=False),
)

# Of a key only the sha256 of its secret part is kept. The secret has 256 random bits: it cannot be guessed.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("secret_sha256", String(64), nullable=False),
    Column("scopes", Text, nullable=False),  # as in the table of tasks
    Column("limits", Json, nullable=False),
    Column("created", Moment, nullable=False),
    Column("expires", Moment),
    Column("revoked", Moment),
)

# What callers upload, and what batches write; the bytes are in the blob store.
caller_files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(128), nullable=False),  # a caller's fairness key
    Column("filename", String(255), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("sha256", String(64), nullable=False, index=True),
    Column("size", BigInteger, nullable=False),
    Column("created", Moment, nullable=False),
    Column("expires", Moment, nullable=False),
    Index("files_by_owner", "owner", "created", "id"),
    Index("files_by_expiry", "expires"),
)

# What a key used of a model on a day (UTC, YYYY-MM-DD); "" is everybody where no keys are needed.
usage = Table(
    "usage",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("model", String(64), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Index("usage_by_day", "day"),
)

# Ids are in order of time. An actor is the id of a key, or an account of the machine.
audit = Table(
    "audit",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("at", Moment, nullable=False, index=True),
    Column("actor", String(128), nullable=False),
    Column("address", Text, nullable=False),
    Column("action", String(32), nullable=False),
    Column("target", String(256), nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("request_id", String(128)),
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("caller", Text, nullable=False),  # as of `tasks`
    Column("caller_key", Text, nullable=False),
    Column("caller_scopes", Text, nullable=False),
    Column("models", Json),  # that the caller may use; null: all
    Column("owner", String(128), nullable=False),  # the caller's fairness key
    Column("endpoint", String(64), nullable=False),
    Column("completion_window", String(8), nullable=False),
    Column("input_file", String(64), nullable=False),
    Column("output_file", String(64)),
    Column("error_file", String(64)),
    Column("notes", Json),  # the caller's own, by name
    Column("state", String(16), nullable=False),
    Column("times", Json, nullable=False),  # state -> when it began, seconds since the epoch
    Column("errors", Json),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("created", Moment, nullable=False),
    Column("expires", Moment, nullable=False),
    Column("worker", String(64)),  # that works on it, as the owner of a task
    Column("attempt", Integer, nullable=False),
    Index("batches_by_owner", "owner", "created", "id"),
    Index("batches_by_state", "state"),
    Index("batches_by_input", "input_file"),
)

# What the lines of an open batch were answered; in files when the batch is over.
batch_results = Table(
    "batch_results",
    metadata,
    Column("batch", ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # of the line in the input file, from 1
    Column("failed", Boolean, nullable=False),
    Column("line", Text, nullable=False),
)
