"""The tables of schema 3."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = None


def upgrade() -> None:
    schema = op.create_table("schema", sa.Column("version", sa.Integer, nullable=False))
    assert schema is not None
    op.bulk_insert(schema, [{"version": 3}])
    _create_models()
    op.create_table(
        "deployments",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("precision_asked", sa.String(8), nullable=False),
        sa.Column("variant", sa.String(8), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("replicas", sa.Integer, nullable=False),
        sa.Column("traffic_weight", sa.Integer, nullable=False),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("capacity", sa.Text),
        sa.UniqueConstraint("model", "version"),
        sa.ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("asynchronous", sa.Boolean, nullable=False),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("model", sa.String(128)),
        sa.Column("parameters", sa.Text, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("started", sa.Float(53)),
        sa.Column("finished", sa.Float(53)),
    )
    op.create_index("tasks_by_age", "tasks", ["created", "id"])
    op.create_index("tasks_by_state", "tasks", ["state"])


def _create_models() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created", sa.Float(53), nullable=False),
    )
    op.create_table(
        "version_counters",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("last", sa.Integer, nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("model", sa.String(64), sa.ForeignKey("models.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("archive_sha256", sa.String(64), nullable=False, index=True),
        sa.Column("manifest", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.UniqueConstraint("model", "archive_sha256"),
    )
    of_version = ["versions.model", "versions.version"]
    op.create_table(
        "version_files",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("path", sa.String(255), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False, index=True),
        sa.Column("size", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["model", "version"], of_version, ondelete="CASCADE"),
    )
    op.create_table(
        "aliases",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("alias", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["model", "version"], of_version, ondelete="CASCADE"),
    )
