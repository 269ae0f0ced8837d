"""Task records to read: one, or pages of them; and the sweep of old ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta

from sqlalchemy import and_, delete, or_, select

from api.back.store.changes import Subscription
from api.back.store.database import Database
from api.back.store.records import TaskRecord, TaskState, now
from api.back.store.sweeping import sweeping
from api.back.store.tables import task_events, tasks
from api.back.store.task_events import StoredEvent, events_from, events_of, outdated
from api.back.store.task_rows import record_of, with_key
from api.back.store.task_writer import TaskWriter
from api.errors import NotFound

SWEEP_BATCH = 500  # records deleted in one transaction
SWEEP_SECONDS = 3600.0  # between two looks for records that are too old


class TaskStore:
    """Sees what waits in `writer` as well. Deletes records of tasks that finished before `retention`."""

    def __init__(
        self,
        database: Database,
        writer: TaskWriter,
        retention: timedelta,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._database = database
        self._writer = writer
        self._retention = retention
        self._clock = clock
        self._closing = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        database: Database,
        writer: TaskWriter,
        retention: timedelta,
        clock: Callable[[], datetime] = now,
    ) -> AsyncIterator[TaskStore]:
        """Runs the sweeper."""
        store = cls(database, writer, retention, clock)
        async with sweeping(store.sweep, "old task records", SWEEP_SECONDS, store._closing):
            yield store

    async def get(self, task_id: str) -> TaskRecord:
        """Raises NotFound."""
        waiting = self._writer.waiting(task_id)
        if waiting is not None:
            return waiting
        async with self._database.read() as connection:
            row = (await connection.execute(select(tasks).where(tasks.c.id == task_id))).one_or_none()
        if row is None:
            raise NotFound(f"task {task_id!r} does not exist")
        return record_of(row)

    async def with_key(self, record: TaskRecord) -> TaskRecord | None:
        """The task that was submitted with the record's idempotency key."""
        async with self._database.read() as connection:
            row = (await connection.execute(with_key(record))).one_or_none()
        return None if row is None else record_of(row)

    async def list(
        self,
        *,
        type: str | None = None,  # noqa: A002 - the record's field
        state: TaskState | None = None,
        limit: int = 50,
        before: str | None = None,
        caller_key: str | None = None,
    ) -> list[TaskRecord]:
        """Newest first; `before` is the id of the task to go on after. Raises NotFound (`before`)."""
        await self._writer.flush()
        query = select(tasks).order_by(tasks.c.created.desc(), tasks.c.id.desc()).limit(limit)
        if type is not None:
            query = query.where(tasks.c.type == type)
        if state is not None:
            query = query.where(tasks.c.state == state.value)
        if caller_key is not None:
            query = query.where(tasks.c.caller_key == caller_key)
        if before is not None:
            last = await self.get(before)
            same_time = and_(tasks.c.created == last.created, tasks.c.id < last.id)
            query = query.where(or_(tasks.c.created < last.created, same_time))
        async with self._database.read() as connection:
            return [record_of(row) for row in await connection.execute(query)]

    async def events(self, task_id: str, attempt: int, number: int) -> Sequence[StoredEvent]:
        """What a task reported, as far as it was kept: all, or what came after an earlier answer."""
        async with self._database.read() as connection:
            return events_of((await connection.execute(events_from(task_id, attempt, number))).all())

    @contextmanager
    def changes(self, task_id: str) -> Iterator[Subscription]:
        """Notices that the task reported something, or is over."""
        with self._database.changes.subscribed(task_id) as subscription:
            yield subscription

    @property
    def poll_seconds(self) -> float:
        """After how long to look without such a notice."""
        return self._database.changes.poll_seconds

    async def sweep(self) -> int:
        """Delete what is too old, a batch at a time so that other writers get their turn; returns how many.

        No task finishes before it was created, so the index by age leads to all of them.
        """
        limit = self._clock() - self._retention
        too_old = and_(tasks.c.created < limit, tasks.c.finished < limit)
        query = select(tasks.c.id).where(too_old).order_by(tasks.c.created, tasks.c.id).limit(SWEEP_BATCH)
        count = 0
        while not self._closing.is_set():
            async with self._database.read() as connection:
                batch = (await connection.execute(query)).scalars().all()
            if not batch:
                break
            async with self._database.write() as connection:
                await connection.execute(delete(tasks).where(tasks.c.id.in_(batch)))
            count += len(batch)
        async with self._database.write() as connection:
            await connection.execute(delete(task_events).where(outdated(self._clock())))
        return count
