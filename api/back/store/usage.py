"""What each API key used of each model, by day. It is counted in memory and written every few seconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from sqlalchemy import delete, select

from api.back.store.database import Database
from api.back.store.records import UsageRecord, now
from api.back.store.tables import api_keys, usage
from api.back.store.task_rows import insert_or_update
from api.back.store.task_writer import first
from api.errors import StoreUnavailable
from runtime.messages import Usage

WRITE_SECONDS = 5.0  # a process that is killed loses what it counted in this time
COUNTS = ("requests", "prompt_tokens", "completion_tokens")
COLUMNS = ("key_id", "model", "day", *COUNTS)

logger = logging.getLogger(__name__)


class UsageStore:
    """One row for each key, model and day, whatever callers do. Rows older than `retention` are deleted."""

    def __init__(self, database: Database, retention: timedelta, clock: Callable[[], datetime] = now) -> None:
        self._database = database
        self._retention = retention
        self._clock = clock
        self._counted: dict[tuple[str, str, str], list[int]] = {}  # by key, model and day
        self._swept = ""  # the day of the last look for old rows
        self._closing = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database: Database, retention: timedelta, clock: Callable[[], datetime] = now
    ) -> AsyncIterator[UsageStore]:
        """Runs the writer; on leaving, what was counted is written if that is possible."""
        store = cls(database, retention, clock)
        writer = asyncio.create_task(store._write_regularly())
        try:
            yield store
        finally:
            store._closing.set()
            await writer

    def note(self, key: str, model: str, measured: Usage) -> None:
        """One request of the key ("": no key was needed) that the model served."""
        counts = self._counted.setdefault((key, model, self._day()), [0, 0, 0])
        for place, number in enumerate((1, measured.prompt_tokens, measured.completion_tokens)):
            counts[place] += number

    async def list(
        self,
        *,
        days: int,
        key: str | None = None,
        model: str | None = None,
        limit: int = 1000,
        offset: int = 0,
    ) -> list[UsageRecord]:
        """Of the last `days`, today among them; the newest first. Raises StoreUnavailable."""
        await self.write()
        names = usage.outerjoin(api_keys, usage.c.key_id == api_keys.c.id)
        query = select(*usage.c, api_keys.c.name).select_from(names)
        query = query.where(usage.c.day >= self._day(timedelta(days=days - 1)))
        for column, wanted in ((usage.c.key_id, key), (usage.c.model, model)):
            if wanted is not None:
                query = query.where(column == wanted)
        query = query.order_by(usage.c.day.desc(), usage.c.key_id, usage.c.model)
        async with self._database.read() as connection:
            rows = await connection.execute(query.limit(limit).offset(offset))
            return [UsageRecord(**row._mapping) for row in rows]

    async def write(self) -> None:
        """Add what was counted to the rows, and delete old ones once a day. Raises StoreUnavailable."""
        counted, self._counted = self._counted, {}
        today = self._day()
        if not counted and self._swept == today:
            return
        try:
            async with self._database.write() as connection:
                statement = insert_or_update(connection.dialect.name, usage)
                added = {name: usage.c[name] + statement.excluded[name] for name in COUNTS}
                where = [usage.c.key_id, usage.c.model, usage.c.day]
                if counted:
                    await connection.execute(
                        statement.on_conflict_do_update(index_elements=where, set_=added),
                        [
                            dict(zip(COLUMNS, (*place, *counts), strict=True))
                            for place, counts in counted.items()
                        ],
                    )
                if self._swept != today:
                    await connection.execute(delete(usage).where(usage.c.day < self._day(self._retention)))
        except BaseException:
            for place, counts in counted.items():
                kept = self._counted.setdefault(place, [0, 0, 0])
                kept[:] = map(sum, zip(kept, counts, strict=True))
            raise
        self._swept = today

    async def _write_regularly(self) -> None:
        while not self._closing.is_set():
            await first(self._closing, WRITE_SECONDS)
            await self._try_to_write()
        await self._try_to_write()  # also where it was closed before this task had begun

    async def _try_to_write(self) -> None:
        try:
            await self.write()
        except StoreUnavailable:
            logger.debug("usage waits in memory")
        except Exception:  # a defect, which must not end the writer
            logger.exception("usage cannot be written")

    def _day(self, ago: timedelta = timedelta(0)) -> str:
        return (self._clock() - ago).date().isoformat()
