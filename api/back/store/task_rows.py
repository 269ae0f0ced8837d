"""Task records as rows of the database."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

from sqlalchemy import Insert, Row, Select, Table, and_, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from api.back.store.records import TaskError, TaskRecord, TaskState
from api.back.store.tables import OPEN, tasks
from api.caller import Caller, Scope
from api.errors import FieldError

CHANGING = (
    "state",
    "result",
    "error",
    "started",
    "finished",
    "runs",
)  # columns; the others stay as they were added


def insert_or_update(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can say what to do where the row exists: each database has its own."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


@cache
def upsert(dialect: str) -> Insert:
    """Add a record, or update it while it is open and its attempt is still the writer's.

    An outcome is final. A worker that lost the task to another one changes nothing.
    """
    statement = insert_or_update(dialect, tasks)
    mine = and_(
        or_(*(tasks.c.state == state for state in OPEN)),  # no IN: it cannot be executed for many rows
        tasks.c.owner.is_not_distinct_from(statement.excluded.owner),
        tasks.c.attempt == statement.excluded.attempt,
    )
    changes = {name: statement.excluded[name] for name in CHANGING}
    return statement.on_conflict_do_update(index_elements=[tasks.c.id], set_=changes, where=mine)


def row_of(record: TaskRecord) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in TaskRecord.__slots__}
    return {
        **fields,
        "state": record.state.value,
        "caller": record.caller.address,
        "caller_key": record.caller.key,
        "caller_scopes": " ".join(sorted(record.caller.scopes)),
        "error": None if record.error is None else dataclasses.asdict(record.error),
    }


def record_of(row: Row[Any]) -> TaskRecord:
    fields = dict(row._mapping)
    scopes = frozenset(map(Scope, fields.pop("caller_scopes").split()))
    fields["caller"] = Caller(row.caller, fields.pop("caller_key"), scopes)
    return TaskRecord(**{**fields, "state": TaskState(row.state), "error": _error(row.error)})


def with_key(record: TaskRecord) -> Select[Any]:
    """The task that was submitted with the record's idempotency key."""
    return select(tasks).where(tasks.c.idempotency_key == record.idempotency_key)


def _error(kept: dict[str, Any] | None) -> TaskError | None:
    if kept is None:
        return None
    fields = tuple(FieldError(item["field"], item["message"]) for item in kept.get("errors", ()))
    return TaskError(kept["slug"], kept["detail"], fields)
