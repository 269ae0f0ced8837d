"""The audit log, on both databases."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone

import pytest

from api.back.store import audit as module
from api.back.store.audit import AuditStore
from api.back.store.database import Database
from api.back.store.keys import KeyStore
from api.back.store.records import AuditRecord
from api.caller import ALL_SCOPES, NO_LIMITS
from api.errors import NotFound

pytestmark = pytest.mark.anyio
NOON = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)


def entry(number: int, actor: str = "", name: str | None = None) -> AuditRecord:
    at = NOON + timedelta(hours=number)
    return AuditRecord(f"{number:03}", at, actor, "192.0.2.1", "DELETE", "/v1/models/m", "204", "r", name)


async def test_entries_come_newest_first_with_the_key_s_name(database_url: str) -> None:
    async with Database.open(database_url) as database:
        key, _ = await KeyStore(database).create("ann", ALL_SCOPES, NO_LIMITS)
        log = AuditStore(database, timedelta(days=1), lambda: NOON)
        for number in range(5):
            await log.add(entry(number, key.id if number == 4 else "root"))
        assert await log.list(limit=2) == [entry(4, key.id, "ann"), entry(3, "root")]
        assert [row.id for row in await log.list(limit=2, before="003")] == ["002", "001"]
        with pytest.raises(NotFound):
            await log.list(before="nothing")


async def test_it_is_bounded_in_time_and_in_rows(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 3)
    moment = NOON
    async with Database.open(database_url) as database:
        log = AuditStore(database, timedelta(hours=10), lambda: moment)
        for number in range(5):
            await log.add(entry(number))
        assert [row.id for row in await log.list()] == ["004", "003", "002"]
        moment = NOON + timedelta(hours=13.5)
        await log.add(entry(13))
        assert [row.id for row in await log.list()] == ["013", "004"]


async def test_entries_below_a_target_are_found_by_its_very_letters(database_url: str) -> None:
    async with Database.open(database_url) as database:
        log = AuditStore(database, timedelta(days=1), lambda: NOON)
        targets = (
            "models/a_b/versions/1",
            "models/axb/versions/1",
            "models/a_b/aliases/x",
            "/v1/models/a_b/",
        )
        for number, target in enumerate(targets):
            await log.add(dataclasses.replace(entry(number), target=target))
        assert [row.id for row in await log.list(below="models/a_b/")] == ["002", "000"]
        assert [row.id for row in await log.list(below="models/a_b/", before="002")] == ["000"]
