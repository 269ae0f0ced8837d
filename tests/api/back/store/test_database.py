"""Opening the database: what it refuses, and that it is durable."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import text, update

from api.back.settings import BackSettings
from api.back.store import tables
from api.back.store.database import Database
from api.errors import ServerFault

pytestmark = pytest.mark.anyio


@pytest.fixture
def url(tmp_path: Path) -> str:
    return BackSettings(home=tmp_path).database


async def test_it_is_durable_and_checks_references(url: str) -> None:
    async with Database.open(url) as database, database.read() as connection:
        for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            assert await connection.scalar(text(f"PRAGMA {pragma}")) == value


@pytest.mark.parametrize(("step", "age"), [(1, "a newer LMaaS"), (-1, "an older LMaaS")])
async def test_the_database_of_another_lmaas_is_refused(url: str, step: int, age: str) -> None:
    async with Database.open(url) as database, database.write() as connection:
        await connection.execute(update(tables.schema).values(version=tables.SCHEMA_VERSION + step))
    with pytest.raises(ServerFault, match=age):
        async with Database.open(url):
            pass


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
            assert await connection.scalar(tables.schema.select()) == tables.SCHEMA_VERSION
