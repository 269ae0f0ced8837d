"""Usage by key, model and day, on both databases."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import text

from api.back.store.database import Database
from api.back.store.keys import KeyStore
from api.back.store.records import UsageRecord
from api.back.store.usage import UsageStore
from api.caller import ALL_SCOPES, NO_LIMITS
from api.errors import StoreUnavailable
from runtime.messages import Usage

pytestmark = pytest.mark.anyio
DAY = datetime(2026, 11, 1, 23, 59, tzinfo=timezone.utc)
WEEK = timedelta(days=7)


class Clock:
    now = DAY

    def __call__(self) -> datetime:
        return self.now


async def test_counts_are_added_up_by_key_model_and_day(database_url: str) -> None:
    clock = Clock()
    async with Database.open(database_url) as database:
        key, _ = await KeyStore(database).create("ann", ALL_SCOPES, NO_LIMITS)
        for _ in range(2):  # the second one finds the rows of the first
            async with UsageStore.open(database, WEEK, clock) as usage:
                usage.note(key.id, "mini-lm", Usage.of(10, 5))
                usage.note(key.id, "mini-lm", Usage.of(1, 2))
                usage.note("", "mini-nlu", Usage.of(0))
        clock.now += timedelta(minutes=1)
        async with UsageStore.open(database, WEEK, clock) as usage:
            usage.note(key.id, "mini-lm", Usage.of(7, 0))
            assert await usage.list(days=2) == [
                UsageRecord(key.id, "mini-lm", "2026-11-02", 1, 7, 0, "ann"),
                UsageRecord("", "mini-nlu", "2026-11-01", 2, 0, 0, None),
                UsageRecord(key.id, "mini-lm", "2026-11-01", 4, 22, 14, "ann"),
            ]
            assert [row.day for row in await usage.list(days=1)] == ["2026-11-02"]
            assert len(await usage.list(days=9, key=key.id)) == 2
            assert len(await usage.list(days=9, model="mini-nlu")) == 1
            assert [row.model for row in await usage.list(days=9, limit=1, offset=1)] == ["mini-nlu"]


async def test_old_rows_are_deleted(database_url: str) -> None:
    clock = Clock()
    async with Database.open(database_url) as database:
        async with UsageStore.open(database, WEEK, clock) as usage:
            usage.note("", "mini-lm", Usage.of(1))
            await usage.write()
            clock.now += timedelta(days=7)
            await usage.write()
            assert len(await usage.list(days=400)) == 1
            clock.now += timedelta(days=1)
            await usage.write()
        async with database.read() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM usage")) == 0


async def test_what_cannot_be_written_is_kept(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Database.open(database_url) as database:
        usage = UsageStore(database, WEEK, Clock())
        usage.note("", "mini-lm", Usage.of(1, 1))
        with monkeypatch.context() as broken:
            broken.setattr(Database, "write", refuse)
            with pytest.raises(StoreUnavailable):
                await usage.write()
        usage.note("", "mini-lm", Usage.of(2, 2))
        (row,) = await usage.list(days=1)
        assert (row.requests, row.prompt_tokens, row.completion_tokens) == (2, 3, 3)


def refuse(database: Database) -> None:
    raise StoreUnavailable("the disk is gone")
