"""Alembic's entrance: it runs this file, with the connection and the transaction of `migrate`."""

from __future__ import annotations

from alembic import context

from api.back.store import tables

context.configure(connection=context.config.attributes["connection"], target_metadata=tables.metadata)
context.run_migrations()
