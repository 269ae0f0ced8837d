"""Tasks of one caller are listed without looking at those of others."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_index("tasks_by_caller", "tasks", ["caller_key", "created", "id"])
