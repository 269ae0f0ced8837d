"""Tasks that were submitted with an idempotency key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    for name in ("idempotency_key", "fingerprint"):
        op.add_column("tasks", sa.Column(name, sa.String(64)))
    op.create_index("tasks_by_idempotency_key", "tasks", ["idempotency_key"], unique=True)
