"""Deployments have a canary's policy, and events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("deployments", sa.Column("canary", sa.Text))
    op.add_column("deployments", sa.Column("events", sa.Text))
