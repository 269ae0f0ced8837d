"""How often a task was begun, and how often the worker that ran it was lost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    for name in ("runs", "interruptions"):
        op.add_column("tasks", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
