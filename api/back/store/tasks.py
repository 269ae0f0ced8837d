"""Task records. Which task runs when is decided in the middle layer; here they are kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, and_, delete, insert, or_, select
from sqlalchemy.exc import SQLAlchemyError

from api.back.store.database import Database
from api.back.store.records import TaskRecord, TaskState, now
from api.back.store.tables import tasks
from api.errors import NotFound

FLUSH_SECONDS = 0.5  # how long a record waits for company
BATCH = 500  # records in one transaction
MAX_WAITING = (
    20_000  # records; beyond it the oldest are given up, for memory is finite and a full disk may stay full
)
RETRY_SECONDS = 1.0
SWEEP_SECONDS = 3600.0  # between two looks for records that are too old

logger = logging.getLogger(__name__)
Tasks = list[TaskRecord]  # inside the class, `list` is its own method


class TaskStore:
    """`add` is durable when it returns; `put` never makes its caller wait for the disk.

    Records of tasks that finished longer than `retention` ago are deleted in the background.
    """

    def __init__(self, database: Database, retention: timedelta, clock: Callable[[], datetime] = now) -> None:
        self._database = database
        self._retention = retention
        self._clock = clock
        self._waiting: dict[str, TaskRecord] = {}  # put, and not yet written
        self._arrived = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._closing = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database: Database, retention: timedelta, clock: Callable[[], datetime] = now
    ) -> AsyncIterator[TaskStore]:
        """Runs the background writer and sweeper; on leaving, all that was put is written."""
        store = cls(database, retention, clock)
        workers = [asyncio.create_task(store._write_behind()), asyncio.create_task(store._sweep_regularly())]
        try:
            yield store
        finally:
            store._closing.set()
            store._arrived.set()
            await asyncio.gather(*workers)

    async def add(self, record: TaskRecord) -> None:
        """Durable when it returns."""
        async with self._database.write() as connection:
            await connection.execute(insert(tasks).values(_row(record)))

    def put(self, record: TaskRecord) -> None:
        """Add or update: visible through this store at once, written in the background."""
        self._waiting[record.id] = record
        self._arrived.set()
        if len(self._waiting) > MAX_WAITING:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            logger.error("task record %s given up: %d wait for the database", oldest, MAX_WAITING)

    async def get(self, task_id: str) -> TaskRecord:
        """Raises NotFound."""
        if task_id in self._waiting:
            return self._waiting[task_id]
        async with self._database.read() as connection:
            row = (await connection.execute(select(tasks).where(tasks.c.id == task_id))).one_or_none()
        if row is None:
            raise _missing(task_id)
        return _record(row)

    async def list(
        self,
        *,
        type: str | None = None,  # noqa: A002 - the record's field
        state: TaskState | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> Tasks:
        """Newest first; `before` is the id of the task to go on after. Raises NotFound (`before`)."""
        await self.flush()
        query = select(tasks).order_by(tasks.c.created.desc(), tasks.c.id.desc()).limit(limit)
        if type is not None:
            query = query.where(tasks.c.type == type)
        if state is not None:
            query = query.where(tasks.c.state == state.value)
        if before is not None:
            last = await self.get(before)
            same_time = and_(tasks.c.created == last.created, tasks.c.id < last.id)
            query = query.where(or_(tasks.c.created < last.created, same_time))
        async with self._database.read() as connection:
            return [_record(row) for row in await connection.execute(query)]

    async def unfinished(self) -> Tasks:
        """All tasks that are queued or running, oldest first: what a start has to take up or close."""
        await self.flush()
        open_states = [state.value for state in TaskState if not state.finished]
        query = select(tasks).where(tasks.c.state.in_(open_states)).order_by(tasks.c.created, tasks.c.id)
        async with self._database.read() as connection:
            return [_record(row) for row in await connection.execute(query)]

    async def flush(self) -> None:
        """Write what was put so far."""
        async with self._flushing:
            while self._waiting:
                batch = list(self._waiting.values())[:BATCH]
                await self._write(batch)
                for record in batch:
                    if self._waiting.get(record.id) is record:  # not put again meanwhile
                        del self._waiting[record.id]

    async def _write(self, batch: Iterable[TaskRecord]) -> None:
        rows = [_row(record) for record in batch]
        async with self._database.write() as connection:
            await connection.execute(delete(tasks).where(tasks.c.id.in_([row["id"] for row in rows])))
            await connection.execute(insert(tasks), rows)

    async def _write_behind(self) -> None:
        while not self._closing.is_set():
            await self._arrived.wait()
            await self._pause(FLUSH_SECONDS)
            self._arrived.clear()
            try:
                await self.flush()
            except SQLAlchemyError:
                logger.exception("task records could not be written; trying again")
                self._arrived.set()
                await self._pause(RETRY_SECONDS)
        await self.flush()

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless the store closes."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    async def sweep(self) -> int:
        """Delete what is too old, a batch at a time so that other writers get their turn; returns how many.

        No task finishes before it was created, so the index by age leads to all of them.
        """
        limit = self._clock() - self._retention
        too_old = and_(tasks.c.created < limit, tasks.c.finished < limit)
        query = select(tasks.c.id).where(too_old).order_by(tasks.c.created, tasks.c.id).limit(BATCH)
        count = 0
        while not self._closing.is_set():
            async with self._database.read() as connection:
                batch = (await connection.execute(query)).scalars().all()
            if not batch:
                break
            async with self._database.write() as connection:
                await connection.execute(delete(tasks).where(tasks.c.id.in_(batch)))
            count += len(batch)
        return count

    async def _sweep_regularly(self) -> None:
        while not self._closing.is_set():
            try:
                count = await self.sweep()
                if count:
                    logger.info("%d old task records deleted", count)
            except SQLAlchemyError:
                logger.exception("old task records could not be deleted; trying again later")
            await self._pause(SWEEP_SECONDS)


def _missing(task_id: str) -> NotFound:
    return NotFound(f"task {task_id!r} does not exist")


def _row(record: TaskRecord) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in TaskRecord.__slots__}
    return {**fields, "state": record.state.value}


def _record(row: Row[Any]) -> TaskRecord:
    return TaskRecord(**{**row._mapping, "state": TaskState(row.state)})
