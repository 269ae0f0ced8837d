"""Tasks of the same key, from any address, belong together."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("account", sa.Text, nullable=False, server_default=""))
