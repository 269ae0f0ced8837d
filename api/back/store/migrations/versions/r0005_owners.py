"""Errors by slug; the caller's key without the address before it, and scopes; owners and leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

ALL_SCOPES = "admin infer models:read models:write tasks"  # keys came later
# Until schema 4 a failed task kept its error by the name of a class.
SLUGS = {
    "InvalidInput": "invalid-input",
    "NotFound": "not-found",
    "Conflict": "conflict",
    "TooLarge": "too-large",
    "Overloaded": "overloaded",
    "Unavailable": "unavailable",
    "StoreUnavailable": "store-unavailable",
    "StoreFull": "store-full",
    "DeadlineExceeded": "deadline",
    "Cancelled": "cancelled",
    "ServerFault": "server-fault",
}


def upgrade() -> None:
    connection = op.get_bind()
    for name, slug in SLUGS.items():
        before, after = f'{{"error": "{name}"', f'{{"slug": "{slug}"'
        connection.execute(
            sa.text(
                "UPDATE tasks SET error = :after || substr(error, :rest)"
                " WHERE substr(error, 1, :length) = :before"
            ),
            {"before": before, "after": after, "length": len(before), "rest": len(before) + 1},
        )
    op.alter_column("tasks", "account", new_column_name="caller_key")
    op.execute("UPDATE tasks SET caller_key = substr(caller_key, length(caller) + 2) WHERE caller_key != ''")
    for column in (
        sa.Column("caller_scopes", sa.Text, nullable=False, server_default=ALL_SCOPES),
        sa.Column("lane", sa.String(32), nullable=False, server_default="models"),
        sa.Column("owner", sa.String(64)),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    ):
        op.add_column("tasks", column)
    op.execute("UPDATE tasks SET lane = 'conversions' WHERE type = 'convert'")
    op.create_table(
        "workers",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("lease_until", sa.Float(53), nullable=False),
    )
