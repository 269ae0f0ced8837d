"""The schema of the database, by Alembic: every database, a new one too, is made by the revisions alone."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection

from api.back.store import tables
from api.errors import ServerFault

FIRST = 3  # the oldest schema that can be brought up to date
LAST_BEFORE_ALEMBIC = 5  # until here the table `schema` names the version
LOCK = 0x6C6D616173  # of PostgreSQL's advisory locks: one façade migrates, others wait
WAIT_SECONDS = 60  # for that


def migrate(connection: Connection, where: str, revision: str = "head") -> None:
    """Bring the database up to `revision`, in the transaction of `connection`, which must hold SQLite's lock.

    Raises ServerFault: the database is of a newer LMaaS, or of one from before schema 3.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT_SECONDS}s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    present = _present(connection)
    known = {script.revision for script in scripts.walk_revisions()}
    if present is not None and present not in known:
        newest = scripts.get_current_head() or ""
        age = "a newer" if present > newest else "an older"
        raise ServerFault(
            f"the database {where} has schema {int(present)}, this LMaaS reads {int(newest)}: "
            f"it was written by {age} LMaaS; run that one, or use another LMAAS_HOME"
        )
    if present is not None and MigrationContext.configure(connection).get_current_revision() is None:
        command.stamp(config, present)
    command.upgrade(config, revision)


def _present(connection: Connection) -> str | None:
    """The revision of the database; None where there are no tables yet."""
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None and inspect(connection).has_table(tables.schema.name):
        return f"{connection.execute(text('SELECT version FROM schema')).scalar_one():04}"
    return revision
