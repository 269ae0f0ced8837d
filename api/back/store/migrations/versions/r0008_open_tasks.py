"""A worker's open tasks by age, and those that it is to cancel: found as fast among any number of others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

OPEN = "state IN ('queued', 'running')"


def upgrade() -> None:
    for name, columns, condition in (
        ("open_tasks_by_owner", ["owner", "created", "id"], OPEN),
        ("tasks_to_cancel", ["owner"], f"{OPEN} AND cancel_requested"),
    ):
        where = sa.text(condition)
        op.create_index(name, "tasks", columns, sqlite_where=where, postgresql_where=where)
