"""The database: opened once, with its schema, and closed once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event, insert, inspect, select
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from api.back.store import tables
from api.errors import ServerFault

BUSY_MILLISECONDS = 10_000  # how long SQLite waits for another process that writes


class Database:
    """Many readers beside one writer: SQLite allows no more, and with PostgreSQL it is no bottleneck here."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writing = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Database]:
        """Connect and create what is missing. Raises ServerFault: a bad URL, another LMaaS's database."""
        try:
            engine = create_async_engine(url)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise ServerFault(f"database_url: {error}") from None
        if engine.dialect.name == "sqlite":
            _require_folder(engine)
            _prepare_sqlite(engine)
        database = cls(engine)
        try:
            try:
                async with database.write() as connection:
                    await connection.run_sync(_create_schema)
            except (OperationalError, OSError) as error:
                where = make_url(url).render_as_string(hide_password=True)
                raise ServerFault(f"the database {where} cannot be opened: {error}") from error
            yield database
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: durable when the block ends, undone when it raises."""
        async with self._writing, self._engine.connect() as connection:
            await connection.execution_options(lmaas_writes=True)
            async with connection.begin():
                yield connection


def _require_folder(engine: AsyncEngine) -> None:
    """A clear line before SQLite says only that it is unable; and a failed connect leaves a thread behind."""
    file = engine.url.database
    if file and not Path(file).parent.is_dir():
        raise ServerFault(f"the database {file} cannot be opened: its folder does not exist")


def _prepare_sqlite(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would begin late; `begin` below does it in time
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # an accepted task outlives a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # A reader that turns writer fails at once when another process wrote meanwhile; so say it beforehand.
        writes = connection.get_execution_options().get("lmaas_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _create_schema(connection: Connection) -> None:
    if inspect(connection).has_table(tables.schema.name):
        version = connection.execute(select(tables.schema.c.version)).scalar_one()
        if version != tables.SCHEMA_VERSION:
            age = "a newer" if version > tables.SCHEMA_VERSION else "an older"
            raise ServerFault(
                f"the database has schema {version}, this LMaaS reads {tables.SCHEMA_VERSION}: "
                f"it was written by {age} LMaaS; run that one, or use another LMAAS_HOME"
            )
        return
    tables.metadata.create_all(connection)
    connection.execute(insert(tables.schema).values(version=tables.SCHEMA_VERSION))
