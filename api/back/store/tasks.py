"""Task records. Which task runs when is decided in the middle layer; here they are kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Row, and_, delete, insert, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from api.back.store.database import Database
from api.back.store.records import TaskRecord, TaskState
from api.back.store.tables import tasks
from api.errors import NotFound

FLUSH_SECONDS = 0.1  # how long a record waits for company
BATCH = 500  # records in one transaction
MAX_WAITING = (
    20_000  # records; beyond it the oldest are given up, for memory is finite and a full disk may stay full
)
RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)
Tasks = list[TaskRecord]  # inside the class, `list` is its own method


class TaskStore:
    """`add` and `update` are durable when they return; `put` never makes its caller wait for the disk."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, TaskRecord] = {}  # put, and not yet written
        self._arrived = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._closing = False

    @classmethod
    @asynccontextmanager
    async def open(cls, database: Database) -> AsyncIterator[TaskStore]:
        """Runs the background writer; on leaving, all that was put is written."""
        store = cls(database)
        writer = asyncio.create_task(store._write_behind())
        try:
            yield store
        finally:
            store._closing = True
            store._arrived.set()
            await writer

    async def add(self, record: TaskRecord) -> None:
        """Durable when it returns."""
        async with self._database.write() as connection:
            await connection.execute(insert(tasks).values(_row(record)))

    async def update(self, record: TaskRecord) -> None:
        """Durable when it returns. Raises NotFound."""
        await self.flush()
        async with self._database.write() as connection:
            result = await connection.execute(
                update(tasks).where(tasks.c.id == record.id).values(_row(record))
            )
        if result.rowcount == 0:
            raise _missing(record.id)

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

    async def delete(self, task_id: str) -> None:
        """Raises NotFound."""
        await self.flush()
        async with self._database.write() as connection:
            result = await connection.execute(delete(tasks).where(tasks.c.id == task_id))
        if result.rowcount == 0:
            raise _missing(task_id)

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
        while not self._closing:
            await self._arrived.wait()
            await asyncio.sleep(FLUSH_SECONDS)
            self._arrived.clear()
            try:
                await self.flush()
            except SQLAlchemyError:
                logger.exception("task records could not be written; trying again")
                self._arrived.set()
                await asyncio.sleep(RETRY_SECONDS)
        await self.flush()


def _missing(task_id: str) -> NotFound:
    return NotFound(f"task {task_id!r} does not exist")


def _row(record: TaskRecord) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in TaskRecord.__slots__}
    return {**fields, "state": record.state.value}


def _record(row: Row[Any]) -> TaskRecord:
    return TaskRecord(**{**row._mapping, "state": TaskState(row.state)})
