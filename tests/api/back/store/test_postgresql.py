"""A PostgreSQL that is killed, stopped, locked or asked what it cannot keep."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path

import anyio
import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from api.back.settings import BackSettings
from api.back.store import postgresql
from api.back.store.database import Database
from api.back.store.postgresql import NO_ANSWER
from api.errors import InvalidInput, StoreUnavailable
from bench.chaos.services import Postgres
from tests.api.back.store.test_tasks import record
from tests.api.back.stores import open_stores

pytestmark = pytest.mark.anyio
BOUND_SECONDS = 10.0  # far more than the 3 s that it takes


@pytest.fixture
def mortal() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


def on(server: Postgres, tmp_path: Path) -> BackSettings:
    return BackSettings(home=tmp_path / "home", database_url=server.create_database())


async def refused(call: Awaitable[object]) -> str:
    begin = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await call
    assert time.monotonic() - begin < BOUND_SECONDS
    return caught.value.detail


async def test_a_server_that_is_killed_is_away_until_it_is_back(mortal: Postgres, tmp_path: Path) -> None:
    async with open_stores(on(mortal, tmp_path)) as stores:
        await stores.writer.add(record(1))
        assert len(await stores.tasks.list()) == 1
        mortal.kill()
        assert "the database fails" in await refused(stores.queue.extend())
        assert stores.queue.failure is not None  # also while no task waits to be recorded
        for call in (stores.writer.add(record(2)), stores.tasks.get("task-001")):
            assert "the database fails" in await refused(call)
        stores.writer.put(record(3))
        mortal.restart()
        assert (await stores.tasks.get("task-001")).id == "task-001"
        with anyio.fail_after(20):
            while stores.writer.failure is not None or stores.writer.num_waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert [task.id for task in await stores.tasks.list()] == ["task-003", "task-001"]


async def test_a_server_that_is_stopped_gives_no_answer_and_goes_on_later(
    mortal: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stores(on(mortal, tmp_path)) as stores:
        await stores.writer.add(record(1))
        async with stores.database.read() as begun:
            await begun.execute(text("SELECT 1"))
            mortal.halt()
            monkeypatch.setattr(
                postgresql, "ANSWER_SECONDS", 0.2
            )  # of a server that is well it may be too short
            with anyio.move_on_after(0.1) as left, anyio.fail_after(BOUND_SECONDS / 2):
                await stores.tasks.get("task-001")
            assert left.cancelled_caught
            with pytest.raises(OperationalError, match=NO_ANSWER):  # of a connection that is in use
                await begun.execute(text("SELECT 1"))
        calls = (stores.queue.extend(), stores.writer.add(record(2)), stores.tasks.list())
        for detail in await asyncio.gather(*map(refused, calls)):
            assert NO_ANSWER in detail
            assert "connect_timeout" not in detail  # the URL as the settings have it
        assert stores.queue.failure is not None
        stores.writer.put(record(3))
        monkeypatch.undo()
        mortal.resume()
        with anyio.fail_after(20):
            while stores.writer.failure is not None or stores.writer.num_waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert [task.id for task in await stores.tasks.list()] == ["task-003", "task-001"]
        assert await stores.queue.extend() is False  # nothing of the first call was written
        assert stores.queue.failure is None


async def test_a_slow_statement_is_no_stopped_server(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stores(on(postgres, tmp_path)) as stores, stores.database.read() as connection:
        monkeypatch.setattr(postgresql, "ANSWER_SECONDS", 0.2)
        assert await connection.scalar(text("SELECT 1 FROM pg_sleep(0.6)")) == 1


async def test_what_is_locked_is_named(postgres: Postgres, tmp_path: Path) -> None:
    settings = on(postgres, tmp_path)
    async with open_stores(settings) as stores:
        await stores.writer.add(record(1))
        with psycopg.connect(str(make_url(settings.database).set(drivername="postgresql"))) as other:
            other.execute("LOCK TABLE tasks IN EXCLUSIVE MODE")
            assert "is locked by another process" in await refused(stores.queue.cancel("task-001"))
            other.rollback()
        await stores.queue.cancel("task-001")
        assert (await stores.tasks.get("task-001")).cancel_requested


async def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="the database fails"):
        async with Database.open(f"postgresql://someone:secret@/none?host={tmp_path}"):
            pass


async def test_a_character_that_it_cannot_keep(postgres: Postgres, tmp_path: Path) -> None:
    async with open_stores(on(postgres, tmp_path)) as stores:
        for call in (stores.tasks.get("a\0b"), stores.models.get("a\0b")):
            with pytest.raises(InvalidInput, match=r"U\+0000"):
                await call
        odd = dataclasses.replace(record(1), parameters={"prompt": "a\0b \U0001f600"})
        await stores.writer.add(odd)  # in JSON it is an escape
        assert await stores.tasks.get(odd.id) == odd


async def test_a_database_whose_encoding_is_not_set(postgres: Postgres, tmp_path: Path) -> None:
    bytes_alone = postgres.create_database("template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
    async with open_stores(BackSettings(home=tmp_path / "home", database_url=bytes_alone)) as stores:
        asked = dataclasses.replace(record(1), parameters={"prompt": "\u00dcn\u00ef \U0001f600"})
        await stores.writer.add(asked)
        assert await stores.tasks.get(asked.id) == asked
