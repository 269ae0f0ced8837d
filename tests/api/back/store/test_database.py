"""Opening the database: what it refuses, and that it is durable."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import make_url, text, update
from sqlalchemy.ext.asyncio import create_async_engine

import api.errors
from api.back.settings import BackSettings
from api.back.store import tables
from api.back.store.database import Database
from api.back.store.migrations.versions import r0005_owners
from api.back.store.records import TaskError
from api.back.store.task_queue import TaskQueue
from api.back.store.task_writer import TaskWriter
from api.back.store.tasks import TaskStore
from api.caller import ALL_SCOPES, Caller, Scope
from api.errors import FieldError, ServerFault, StoreUnavailable

pytestmark = pytest.mark.anyio
OLD_SCOPES = ALL_SCOPES - {Scope.METRICS}  # all that there were at schema 5


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(BackSettings(home=tmp_path).database)


async def test_it_is_durable_and_checks_references(url: str) -> None:
    async with Database.open(url) as database, database.read() as connection:
        for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            assert await connection.scalar(text(f"PRAGMA {pragma}")) == value


def opened(database: Database) -> TaskStore:
    return TaskStore(database, TaskWriter(database), timedelta(days=1))


OLD_TASKS = """
CREATE TABLE tasks (
    id VARCHAR(64) NOT NULL PRIMARY KEY, type VARCHAR(32) NOT NULL, state VARCHAR(16) NOT NULL,
    asynchronous BOOLEAN NOT NULL, caller TEXT NOT NULL, {account}
    model VARCHAR(128), parameters TEXT NOT NULL, result TEXT, error TEXT,
    created FLOAT NOT NULL, started FLOAT, finished FLOAT
)"""
SCHEMAS = Path(__file__).parent / "schemas"
ACCOUNT = "account TEXT DEFAULT '' NOT NULL,"


async def make_old(url: str, version: int, account: str, *rows: str) -> None:
    """A database as an earlier release left it: the other tables were as in schema 5."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for statement in (
            *filter(str.strip, (SCHEMAS / "sqlite-5.sql").read_text().split(";")),
            "DROP TABLE tasks",
            "DROP TABLE workers",
            OLD_TASKS.format(account=account),
            "CREATE INDEX tasks_by_age ON tasks (created, id)",
            "CREATE INDEX tasks_by_state ON tasks (state)",
            f"UPDATE schema SET version = {version}",
            *rows,
        ):
            await connection.exec_driver_sql(statement)
    await engine.dispose()


@pytest.mark.parametrize(("version", "account"), [(3, ""), (4, ACCOUNT)])
async def test_the_queue_of_an_earlier_release_is_taken_over(url: str, version: int, account: str) -> None:
    row = (
        "INSERT INTO tasks (id, type, state, asynchronous, caller, parameters, created)"
        " VALUES ('t', 'generate', 'queued', 1, '192.0.2.1', '{}', 0)"
    )
    await make_old(url, version, account, row)
    for number in (1, 2):
        async with Database.open(url) as database:
            (task,) = await opened(database).list()
            assert (task.id, task.caller) == ("t", Caller("192.0.2.1", scopes=OLD_SCOPES))
            queue = TaskQueue(database, TaskWriter(database), f"worker {number}")
            (claimed,) = await queue.claim(["models"], 10)
            assert (claimed.attempt, claimed.owner) == (number, queue.worker)
            assert await queue.release() == 1


async def test_keys_and_errors_of_an_earlier_release_are_kept(url: str) -> None:
    errors = {
        "a": ("InvalidInput", [{"field": "text", "message": 'is "error": "NotFound"'}]),
        "b": ("DeadlineExceeded", None),
        "c": ("StoreFull", None),
    }
    rows = [
        "INSERT INTO tasks (id, type, state, asynchronous, caller, account, parameters, error, created)"
        f" VALUES ('{key}', 'nlu', 'failed', 1, '2001:db8::1', '2001:db8::1 0123abc', '{{}}', '{kept}', 0)"
        for key, (name, fields) in errors.items()
        for kept in [json.dumps({"error": name, "detail": "why", **({"errors": fields} if fields else {})})]
    ]
    await make_old(url, 4, ACCOUNT, *rows)
    async with Database.open(url) as database:
        store = opened(database)
        found = [await store.get(key) for key in errors]
    assert {task.caller for task in found} == {Caller("2001:db8::1", "0123abc", OLD_SCOPES)}
    assert [task.error for task in found] == [
        TaskError("invalid-input", "why", (FieldError("text", 'is "error": "NotFound"'),)),
        TaskError("deadline", "why"),
        TaskError("store-full", "why"),
    ]


def test_slugs_of_the_migration_are_those_of_the_errors() -> None:
    for name, slug in r0005_owners.SLUGS.items():
        assert getattr(api.errors, name).slug == slug
    assert {kind.value for kind in OLD_SCOPES} == set(r0005_owners.ALL_SCOPES.split())


@pytest.mark.parametrize(
    "damage", [lambda content: b"x" * 5000, lambda content: content[: len(content) // 2]]
)
async def test_a_damaged_database_is_one_clear_line(
    url: str, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    file = Path(make_url(url).database or "")
    async with Database.open(url):
        pass
    file.write_bytes(damage(file.read_bytes()))  # noqa: ASYNC240 - a few pages
    with pytest.raises(
        StoreUnavailable, match=rf"^the database is damaged .*: {file}: put a backup in its place"
    ):
        async with Database.open(url):
            pass
    assert not caplog.messages  # the process ends with it


@pytest.mark.parametrize("bad", ["nonsense", "nosuch://x", "sqlite+aiosqlite:////proc/none/x.db"])
async def test_a_bad_url_is_one_clear_line(bad: str) -> None:
    with pytest.raises(ServerFault) as caught:
        async with Database.open(bad):
            pass
    assert "database" in caught.value.detail


async def test_a_failed_transaction_leaves_nothing(url: str) -> None:
    async with Database.open(url) as database:
        with suppress(ZeroDivisionError):
            async with database.write() as connection:
                await connection.execute(update(tables.schema).values(version=0))
                raise ZeroDivisionError
        async with database.read() as connection:
            assert await connection.scalar(tables.schema.select()) != 0


async def test_claims_use_the_index(url: str) -> None:
    """Without it each claim sorts all that wait."""
    async with Database.open(url) as database, database.read() as connection:
        queue = TaskQueue(database, TaskWriter(database), "here")
        for owner in (None, "other"):
            claim = queue._of(owner, ["models"]).order_by(tables.tasks.c.created, tables.tasks.c.id).limit(1)
            statement = claim.compile(connection.engine.sync_engine, compile_kwargs={"literal_binds": True})
            plan = [row.detail for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")]
            assert "open_tasks_by_owner (owner=?)" in plan[0]
            assert not any("TEMP B-TREE" in line for line in plan)
