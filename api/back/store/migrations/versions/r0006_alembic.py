"""The table `schema` says 6 from now on: an LMaaS from before Alembic reads it, and refuses."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("UPDATE schema SET version = 6")
