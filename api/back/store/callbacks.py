"""Callbacks of finished tasks that are to be sent: each by one façade at a time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import select, update

from api.back.store.database import Database
from api.back.store.records import TaskRecord, now
from api.back.store.tables import IS_OVER, tasks
from api.back.store.task_rows import record_of


class CallbackStore:
    def __init__(self, database: Database, clock: Callable[[], datetime] = now) -> None:
        self._database = database
        self._clock = clock

    async def claim(self, limit: int, lease: timedelta) -> list[TaskRecord]:
        """Tasks whose callback is due, each with one attempt more. They are due again when the lease ends.

        Raises StoreUnavailable.
        """
        due = (IS_OVER, tasks.c.callback_due.is_not(None), tasks.c.callback_due <= self._clock())
        first = select(tasks.c.id).where(*due).order_by(tasks.c.callback_due).limit(limit)
        async with self._database.read() as connection:  # most of the time there is nothing to write
            if (await connection.execute(first)).first() is None:
                return []
        ids = first.with_for_update(skip_locked=True).cte()
        claimed = (
            update(tasks)
            .where(tasks.c.id.in_(select(ids.c.id)), *due)
            .values(callback_due=self._clock() + lease, callback_attempts=tasks.c.callback_attempts + 1)
            .returning(*tasks.c)
        )
        async with self._database.write() as connection:
            return [record_of(row) for row in await connection.execute(claimed)]

    async def settle(self, record: TaskRecord, again: datetime | None) -> None:
        """An attempt is over; None: no other one follows. Raises StoreUnavailable."""
        mine = (tasks.c.id == record.id, tasks.c.callback_attempts == record.callback_attempts)
        async with self._database.write() as connection:
            await connection.execute(update(tasks).where(*mine).values(callback_due=again))
