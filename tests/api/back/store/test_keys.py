"""API keys in a real database: what is kept of them, and how they end."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import text

from api.back.settings import BackSettings
from api.back.store.database import Database
from api.back.store.keys import KEY, KeyStore, keys_before_start, make_key
from api.caller import ALL_SCOPES, NO_LIMITS, Limits, Scope
from api.errors import InvalidInput, NotFound, ServerFault

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
LIMITS = Limits(max_queued=5, requests_per_minute=60, models=frozenset({"mini-lm", "mini-nli"}))


async def test_a_key_is_read_as_it_was_created(database_url: str) -> None:
    expires = NOON + timedelta(days=1)
    async with Database.open(database_url) as database:
        store = KeyStore(database, lambda: NOON)
        assert not await store.any()
        record, key = await store.create("a person", frozenset({Scope.INFER}), LIMITS, expires)
        assert await store.any()
        assert await store.get(record.id) == record
        assert (record.limits, record.created, record.expires) == (LIMITS, NOON, expires)
        parts = KEY.fullmatch(key)
        assert parts is not None
        assert parts["id"] == record.id
        assert record.has_secret(parts["secret"])
        assert not record.has_secret(parts["secret"][:-1])
        assert await store.get("lmaas_000000000000") is None


async def test_the_database_does_not_have_the_secret(tmp_path: Path) -> None:
    async with Database.open(BackSettings(home=tmp_path).database) as database:
        record, key = await KeyStore(database).create("me", ALL_SCOPES, NO_LIMITS)
        kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())  # noqa: ASYNC240
    assert record.id.encode() in kept
    assert key.rpartition("_")[2].encode() not in kept
    assert record.secret_sha256 not in repr(record)


async def test_keys_differ(database_url: str) -> None:
    async with Database.open(database_url) as database:
        store = KeyStore(database)
        made = [await store.create("me", ALL_SCOPES, NO_LIMITS) for _ in range(20)]
        assert len({key for _, key in made}) == len({record.id for record, _ in made}) == 20
        assert {record.id for record in await store.list()} == {record.id for record, _ in made}


async def test_a_key_that_was_made_elsewhere_is_created_once(database_url: str) -> None:
    key = make_key()
    async with Database.open(database_url) as database:
        store = KeyStore(database)
        tries = [store.create("me", ALL_SCOPES, NO_LIMITS, key=key) for _ in range(3)]
        made = await asyncio.gather(*tries)
        assert [given for _, given in made] == [key] * 3
        assert await store.list() == [made[0][0]]
        assert made[0][0].has_secret(key[19:])
        await store.revoke(made[0][0].id)
        again, _ = await store.create("me", ALL_SCOPES, NO_LIMITS, key=key)
        assert again.revoked is not None
        for wrong in (key[:-1], key[:-1] + ("A" if key[-1] != "A" else "B"), ""):
            with pytest.raises(InvalidInput):
                await store.create("me", ALL_SCOPES, NO_LIMITS, key=wrong)
        assert len(await store.list()) == 1


async def test_it_expires_and_is_revoked(database_url: str) -> None:
    moment = NOON
    async with Database.open(database_url) as database:
        store = KeyStore(database, lambda: moment)
        record, _ = await store.create("me", ALL_SCOPES, NO_LIMITS, NOON + timedelta(hours=1))
        assert record.refusal(NOON) is None
        assert record.refusal(NOON + timedelta(hours=1)) == "expired at 2026-11-01 13:00:00 UTC"
        revoked = await store.revoke(record.id)
        assert revoked.refusal(NOON) == "was revoked at 2026-11-01 12:00:00 UTC"
        moment += timedelta(minutes=1)
        assert await store.revoke(record.id) == revoked == await store.get(record.id)
        assert await store.any()  # so that the server does not become open again
        with pytest.raises(NotFound, match="lmaas_0"):
            await store.revoke("lmaas_0")


async def test_bad_keys_are_not_created(database_url: str) -> None:
    async with Database.open(database_url) as database:
        store = KeyStore(database)
        for name in ("", "a\nb", "x" * 65, "-x", "é"):
            with pytest.raises(InvalidInput, match="name"):
                await store.create(name, ALL_SCOPES, NO_LIMITS)
        with pytest.raises(InvalidInput, match="scopes"):
            await store.create("me", frozenset(), NO_LIMITS)
        with pytest.raises(InvalidInput, match="2026-11-01 12:00:00 UTC has passed"):
            await store.create("me", ALL_SCOPES, NO_LIMITS, NOON)
        assert await store.list() == []


async def test_before_a_start_the_keys_are_read_without_changing_anything(database_url: str) -> None:
    assert await keys_before_start(database_url) == []
    async with Database.open(database_url) as database:
        record, _ = await KeyStore(database).create("me", ALL_SCOPES, NO_LIMITS)
        assert await keys_before_start(database_url) == [record]  # beside a server
        async with database.write() as connection:
            await connection.execute(text("DROP TABLE api_keys"))
    assert await keys_before_start(database_url) == []  # of an older LMaaS


async def test_before_the_first_start_no_file_is_made(tmp_path: Path) -> None:
    assert await keys_before_start(BackSettings(home=tmp_path).database) == []
    assert await keys_before_start(BackSettings(home=tmp_path / ("a" * 300)).database) == []  # no such name
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240
    with pytest.raises(ServerFault, match="database_url"):
        await keys_before_start("nothing://here")
