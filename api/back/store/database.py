"""The database: opened once, with its schema, and closed once."""

from __future__ import annotations

import asyncio
import copy
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import event, make_url, update
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from api.back.store import failures, tables
from api.back.store.changes import Changes
from api.back.store.migrations import migrate
from api.errors import ServerFault, StoreUnavailable

# A caller hears within 3 s that the database cannot be used: the turn, then the lock.
BUSY_MILLISECONDS = 1000  # how long SQLite waits for another process that writes
MIGRATING_MILLISECONDS = 10_000  # and at a start, for another façade that starts and makes the tables
TURN_SECONDS = 1.5  # how long a write waits for those before it, longer than the first of them fails
CONNECTION_SECONDS = 1.0  # how long a read waits for one of the connections
# Parameters of a connection. A façade that hangs in a transaction loses it, and with it the locks.
POSTGRESQL = {
    "connect_timeout": "2",  # seconds; libpq takes no less
    "tcp_user_timeout": "2000",  # milliseconds until a server that is cut off counts as gone
    "keepalives_idle": "5",
    "keepalives_interval": "1",
    "options": f"-c lock_timeout={BUSY_MILLISECONDS} -c idle_in_transaction_session_timeout=60000",
    "client_encoding": "UTF8",  # also where the database says SQL_ASCII: bytes as they are
    "application_name": "lmaas",
}


class Database:
    """Many readers beside one writer: SQLite allows no more, and one for each façade is enough.

    Both raise StoreUnavailable, StoreFull among them, within 3 seconds where the database cannot be used.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.where = location(engine)  # without the password
        self._writing = asyncio.Lock()
        self._opened = False
        self.changes = Changes()
        self.failure: StoreUnavailable | None = None  # why the last write failed, if it did
        self._failed = 0.0  # when

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str | URL) -> AsyncIterator[Database]:
        """Connect and create what is missing.

        Raises ServerFault: a bad URL, another LMaaS's database; StoreUnavailable: it is damaged, or locked.
        """
        engine = engine_of(url)
        if engine.dialect.name == "sqlite":
            _require_folder(engine)
            _prepare_sqlite(engine)
        database = cls(engine)
        try:
            async with database.write(migrates=True) as connection:
                await connection.run_sync(migrate, database.where)
            await engine.dispose()  # the next connections check references
            database._opened = True
            async with Changes.open(engine) as database.changes:
                yield database
        finally:
            await engine.dispose()

    @property
    def is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @property
    def file(self) -> Path | None:
        """Of SQLite."""
        name = self._engine.url.database
        return Path(name) if self.is_sqlite and name else None

    @asynccontextmanager
    async def read(self, *, isolated: bool = False) -> AsyncIterator[AsyncConnection]:
        """`isolated`: all statements see one moment, as SQLite's do in any case."""
        with failures.translated(self.where):
            async with self._engine.connect() as connection:
                if isolated and not self.is_sqlite:
                    await connection.execution_options(isolation_level="REPEATABLE READ")
                yield connection

    @asynccontextmanager
    async def write(self, *, migrates: bool = False) -> AsyncIterator[AsyncConnection]:
        """A transaction: durable when the block ends, undone when it raises."""
        async with self._turn():
            try:
                with failures.translated(self.where, logged=self._opened):
                    async with self._engine.connect() as connection:
                        await connection.execution_options(lmaas_writes=True, lmaas_migrates=migrates)
                        async with connection.begin():
                            yield connection
            except StoreUnavailable as error:
                self.failure, self._failed = error, time.monotonic()
                raise
            if self.failure is not None:
                failures.logger.warning("the database can be written again: %s", self.where)
                self.failure = None

    async def check_writable(self) -> None:
        """Write something that changes nothing. Raises StoreUnavailable."""
        async with self.write() as connection:
            await connection.execute(update(tables.schema).values(version=tables.schema.c.version))

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Those who wait while a write fails fail with it; otherwise the last would wait for all of them."""
        begin = time.monotonic()
        try:
            with anyio.fail_after(TURN_SECONDS):
                await self._writing.acquire()
        except TimeoutError:
            if self.failure is not None:
                raise copy.copy(self.failure) from None
            late = f"the writes before this one did not end within {TURN_SECONDS:g} s: {self.where}"
            raise failures.report(StoreUnavailable(late)) from None
        try:
            if self.failure is not None and self._failed > begin:
                raise copy.copy(self.failure)
            yield
        finally:
            self._writing.release()


def engine_of(url: str | URL) -> AsyncEngine:
    """Not connected yet. Raises ServerFault: a bad URL."""
    try:
        return _engine(make_url(url))
    except (ArgumentError, NoSuchModuleError) as error:
        raise ServerFault(f"database_url: {error}") from None
    except ImportError as error:
        raise ServerFault(f"database_url: {error}: pip install 'lmaas[postgres]'") from None


def _engine(url: URL) -> AsyncEngine:
    """Raises ArgumentError, NoSuchModuleError, ImportError."""
    if not url.drivername.startswith("postgresql"):
        return create_async_engine(url, pool_timeout=CONNECTION_SECONDS)
    if url.drivername == "postgresql":  # alone, as most tools write it
        url = url.set(drivername="postgresql+psycopg")
    # What the URL says goes before what is said here.
    url = url.set(query={**POSTGRESQL, **url.query})
    from api.back.store.postgresql import Connector

    # A connection may be of before a restart of the server.
    return create_async_engine(
        url,
        pool_timeout=CONNECTION_SECONDS,
        pool_pre_ping=True,
        connect_args={"async_creator_fn": Connector()},
    )


def location(engine: AsyncEngine) -> str:
    """The file of an SQLite database; of another the URL, without password and parameters of connections."""
    if engine.dialect.name == "sqlite" and engine.url.database:
        return engine.url.database
    return engine.url.difference_update_query(POSTGRESQL).render_as_string(hide_password=True)


def _require_folder(engine: AsyncEngine) -> None:
    """A clear line before SQLite says only that it is unable; and a failed connect leaves a thread behind."""
    file = engine.url.database
    if file and not Path(file).parent.is_dir():
        raise ServerFault(f"the database {file} cannot be opened: its folder does not exist")


def _use_wal(connection: Any, cursor: Any) -> None:
    """Let readers go on beside the writer.

    Of two connections that turn a new file to this at the same moment, SQLite refuses one at once: its
    busy_timeout does not count here.
    """
    give_up = time.monotonic() + BUSY_MILLISECONDS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "is locked" not in str(error) or time.monotonic() > give_up:
                raise
        connection.run_async(lambda _: asyncio.sleep(0.01))


def _prepare_sqlite(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would begin late; `begin` below does it in time
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")  # first: the others may have to wait
        _use_wal(connection, cursor)
        cursor.execute("PRAGMA synchronous=FULL")  # an accepted task outlives a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # A reader that turns writer fails at once when another process wrote meanwhile; so say it beforehand.
        options = connection.get_execution_options()
        if options.get("lmaas_migrates", False):
            connection.exec_driver_sql(f"PRAGMA busy_timeout={MIGRATING_MILLISECONDS}")
            # A table may be changed by copying it; to drop the first one would delete what refers to it.
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        writes = options.get("lmaas_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
