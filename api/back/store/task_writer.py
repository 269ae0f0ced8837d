"""The one writer of task records: what waits together is written in one commit."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.back.store import failures
from api.back.store.database import Database
from api.back.store.records import TaskRecord
from api.back.store.tables import task_events, tasks
from api.back.store.task_events import EventBuffer, StoredEvent
from api.back.store.task_rows import row_of, upsert
from api.errors import ServerFault, StoreUnavailable

FLUSH_SECONDS = 0.5  # how long a record waits for others to share its commit
BATCH = 500  # records in one transaction
# Records; beyond it the oldest of synchronous tasks are dropped: memory is finite, and a disk may stay full.
MAX_WAITING = 20_000
RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)


class _Commit:
    """One commit of all that waits. Those who need it share it; `error` says why it failed."""

    def __init__(self) -> None:
        self._over = asyncio.Event()
        self._error: StoreUnavailable | None = None

    def end(self, error: StoreUnavailable | None) -> None:
        self._error = error
        self._over.set()

    async def wait(self) -> None:
        """Raises StoreUnavailable."""
        await self._over.wait()
        if self._error is not None:
            raise copy.copy(self._error)


class TaskWriter:
    """`put` never makes its caller wait for the disk; `add` and `flush` return when records are durable.

    While the database cannot be written, records wait in memory, and the writer tries again once a second.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, TaskRecord] = {}  # put, and not yet written
        self._adding: set[str] = set()  # of those whose caller waits, the ones that can be written
        self._refused: set[str] = set()  # tasks whose outcome was not written
        self._arrived = asyncio.Event()
        self._hurry = asyncio.Event()  # a caller waits for the next commit
        self._next = _Commit()
        self._resting = False  # until the next try
        self._closing = asyncio.Event()
        self._events = EventBuffer()
        self._unwritten: list[dict[str, Any]] = []  # rows of events whose commit failed
        self.failure: StoreUnavailable | None = None  # why nothing can be recorded at present

    @classmethod
    @asynccontextmanager
    async def open(cls, database: Database) -> AsyncIterator[TaskWriter]:
        """Runs the background writer; on leaving, what was put is written if that is possible."""
        writer = cls(database)
        running = asyncio.create_task(writer._write_behind())
        try:
            yield writer
        finally:
            writer._closing.set()
            writer._arrived.set()
            writer._hurry.set()
            await running

    @property
    def num_waiting(self) -> int:
        """Records that wait to be written."""
        return len(self._waiting)

    def waiting(self, task_id: str) -> TaskRecord | None:
        """The record, where it waits to be written."""
        return self._waiting.get(task_id)

    async def add(self, record: TaskRecord) -> None:
        """Durable when it returns; nothing is kept of it where this raises StoreUnavailable, ServerFault."""
        self._adding.add(record.id)
        self.put(record)
        try:
            await self.flush()
            if record.id not in self._adding:
                raise ServerFault("the task cannot be recorded by a defect of the server; its log says more")
        except BaseException as error:
            withdrawn = self._waiting.pop(record.id, None)
            if withdrawn is not None or not isinstance(error, StoreUnavailable):
                raise  # else it was written before another one failed
        finally:
            self._adding.discard(record.id)

    def put(self, record: TaskRecord) -> None:
        """Add or update: visible through `waiting` at once, written in the background."""
        self._waiting[record.id] = record
        self._arrived.set()
        if len(self._waiting) > MAX_WAITING:
            self._drop_oldest()

    def report(self, task_id: str, event: StoredEvent) -> None:
        """Keep an event for followers at other façades, if there is room: written in the background."""
        if self._events.put(task_id, event):
            self._arrived.set()

    def _drop_oldest(self) -> None:
        """Of a synchronous task: its caller has the answer. The number of asynchronous ones is bounded."""
        oldest = next((key for key, record in self._waiting.items() if not record.asynchronous), None)
        if oldest is not None:
            del self._waiting[oldest]
            failures.logger.error(
                "records of synchronous tasks are given up: %d wait for the database", MAX_WAITING
            )

    async def flush(self) -> None:
        """Return when all that was put so far is durable. Raises StoreUnavailable: it is written later."""
        if not self._waiting:
            return
        if self._resting and self.failure is not None:
            raise copy.copy(self.failure)
        self._hurry.set()
        self._arrived.set()
        await self._next.wait()

    def was_refused(self, task_id: str) -> bool:
        """Whether the outcome of an asynchronous task was not written: the task has one, or another owner."""
        if task_id not in self._refused:
            return False
        self._refused.discard(task_id)
        return True

    async def _write_behind(self) -> None:
        while not self._closing.is_set():
            await self._arrived.wait()
            await first(self._hurry, FLUSH_SECONDS)
            self._arrived.clear()
            self._hurry.clear()
            if not await self._commit():
                self._arrived.set()
                self._resting = True
                await first(self._closing, RETRY_SECONDS)
                self._resting = False
        if not await self._commit():
            logger.error("the last states of %d tasks could not be recorded", len(self._waiting))
        self.failure, self._resting = StoreUnavailable("the database is closed"), True

    async def _commit(self) -> bool:
        """Write all that waits; a failure reaches all who wait for this commit or the next."""
        commit, self._next = self._next, _Commit()
        try:
            await self._write_waiting()
            self.failure = None
        except StoreUnavailable as error:
            self.failure = error
        except Exception:
            logger.exception("task records cannot be written")
            self.failure = StoreUnavailable("task records cannot be written; the server's log says why")
        if self.failure is not None:
            self._next.end(self.failure)
            self._next = _Commit()
        commit.end(self.failure)
        return self.failure is None

    async def _write_waiting(self) -> None:
        """Raises StoreUnavailable."""
        waiting = list(self._waiting.values())  # what comes meanwhile has the next commit
        await self._write_events()  # first: where an outcome is, all events are
        if self.failure is not None and not waiting:
            await self._database.check_writable()
        for start in range(0, len(waiting), BATCH):
            batch = waiting[start : start + BATCH]
            try:
                await self._write(batch)
            except StoreUnavailable:
                raise
            except Exception:
                logger.exception("task records could not be written together; each is tried alone")
                for record in batch:
                    await self._write_alone(record)
            for record in batch:
                if self._waiting.get(record.id) is record:  # not put again meanwhile
                    del self._waiting[record.id]

    async def _write_events(self) -> None:
        """Raises StoreUnavailable: they wait for the next commit."""
        rows = self._unwritten or self._events.take()
        if not rows:
            return
        self._unwritten = rows
        try:
            async with self._database.write() as connection:
                await connection.execute(insert(task_events), rows)
                await self._database.changes.announce(connection, {row["task_id"] for row in rows})
        except StoreUnavailable:
            raise
        except Exception:
            logger.exception("events of %d tasks cannot be written, and are given up", len(rows))
        self._unwritten = []

    async def _write_alone(self, record: TaskRecord) -> None:
        """One bad record must not keep the others out."""
        try:
            await self._write([record])
        except StoreUnavailable:
            raise
        except Exception:
            logger.exception("task record %s cannot be written, and is given up", record.id)
            self._adding.discard(record.id)

    async def _write(self, batch: Sequence[TaskRecord]) -> None:
        rows = [row_of(record) for record in batch]
        async with self._database.write() as connection:
            written = await connection.execute(upsert(connection.dialect.name), rows)
            if written.rowcount != len(batch):
                await self._find_refused(connection, batch)
            over = [record.id for record in batch if record.asynchronous and record.state.finished]
            await self._database.changes.announce(connection, over)
        for task_id in over:
            self._events.forget(task_id)

    async def _find_refused(self, connection: AsyncConnection, batch: Sequence[TaskRecord]) -> None:
        """Which records of a batch were not written, because their tasks are no longer the writer's."""
        query = select(tasks.c.id, tasks.c.owner, tasks.c.attempt, tasks.c.state)
        found = await connection.execute(query.where(tasks.c.id.in_([record.id for record in batch])))
        kept = {row.id: (row.owner, row.attempt, row.state) for row in found}
        for record in batch:
            if kept.get(record.id) != (record.owner, record.attempt, record.state.value):
                logger.warning("task %s is closed, or claimed by another worker: not updated", record.id)
                if record.asynchronous and record.state.finished:
                    self._refused.add(record.id)


async def first(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, at most `seconds`."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
