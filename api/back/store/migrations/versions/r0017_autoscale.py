"""How a deployment is scaled by its load."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("deployments", sa.Column("autoscale", sa.Text))
