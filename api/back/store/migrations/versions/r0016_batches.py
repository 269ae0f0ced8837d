"""Batches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("caller_key", sa.Text, nullable=False),
        sa.Column("caller_scopes", sa.Text, nullable=False),
        sa.Column("models", sa.Text),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("completion_window", sa.String(8), nullable=False),
        sa.Column("input_file", sa.String(64), nullable=False),
        sa.Column("output_file", sa.String(64)),
        sa.Column("error_file", sa.String(64)),
        sa.Column("notes", sa.Text),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("times", sa.Text, nullable=False),
        sa.Column("errors", sa.Text),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("completed", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("expires", sa.Float(53), nullable=False),
        sa.Column("worker", sa.String(64)),
        sa.Column("attempt", sa.Integer, nullable=False),
    )
    op.create_index("batches_by_owner", "batches", ["owner", "created", "id"])
    op.create_index("batches_by_state", "batches", ["state"])
    op.create_index("batches_by_input", "batches", ["input_file"])
    op.create_table(
        "batch_results",
        sa.Column("batch", sa.String(64), sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("failed", sa.Boolean, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
    )
