"""Addresses that are called when a task is over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"

DUE = "callback_due IS NOT NULL AND state NOT IN ('queued', 'running')"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("callback_url", sa.Text))
    op.add_column("tasks", sa.Column("callback_due", sa.Float(53)))
    op.add_column("tasks", sa.Column("callback_attempts", sa.Integer, nullable=False, server_default="0"))
    where = sa.text(DUE)
    op.create_index(
        "callbacks_by_time", "tasks", ["callback_due"], sqlite_where=where, postgresql_where=where
    )
