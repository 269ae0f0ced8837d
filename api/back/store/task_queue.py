"""The queue of tasks, which several façades may share: each task has one owner, and each owner a lease.

A worker (one façade) owns the tasks that it added or claimed. No other worker claims them during its lease.
When the lease has ended, because the worker died or lost the database, any other worker may claim them. Every
write of an owner depends on its ownership and its attempt: a worker that comes back late changes nothing.

The order of turns is not decided here. A façade owns what it accepted and keeps it in a fair queue in memory:
turns are measured in tokens, and what a task did not use is given back when it ends. To decide turns in the
database would cost a commit for each. Claims are for tasks that lost their owner.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, delete, exists, select, update

from api.back.store.changes import FREE, Subscription
from api.back.store.database import Database
from api.back.store.records import TaskRecord, TaskState, now
from api.back.store.tables import IS_OPEN, tasks, workers
from api.back.store.task_events import StoredEvent
from api.back.store.task_rows import insert_or_update, record_of, row_of, with_key
from api.back.store.task_writer import TaskWriter
from api.errors import StoreUnavailable

LEASE = timedelta(seconds=20)  # from the last extension until another worker may claim
FORGOTTEN = timedelta(days=1)  # after which the lease of a dead worker is deleted

WAS_RUNNING = case((tasks.c.state == TaskState.RUNNING.value, 1), else_=0)
# Of a task that loses its owner. One that runs is interrupted; who stops in good order lets it wait before.
GIVEN_BACK: dict[str, Any] = {
    "state": TaskState.QUEUED.value,
    "started": None,
    "interruptions": tasks.c.interruptions + WAS_RUNNING,
}


class TaskQueue:
    """The queue for one worker. The clocks of machines that share a database may differ by a second or so."""

    def __init__(
        self,
        database: Database,
        writer: TaskWriter,
        worker: str,
        *,
        lease: timedelta = LEASE,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self.worker = worker
        self._database = database
        self._writer = writer
        self._lease = lease
        self._clock = clock

    @property
    def failure(self) -> StoreUnavailable | None:
        """Why nothing can be recorded at present."""
        return self._writer.failure or self._database.failure

    @property
    def num_waiting(self) -> int:
        """Records that wait to be written."""
        return self._writer.num_waiting

    async def add(self, record: TaskRecord) -> None:
        """Durable when it returns; nothing is kept of it where this raises StoreUnavailable, ServerFault.

        Those that come together share one commit.
        """
        await self._writer.add(record)

    async def add_once(self, record: TaskRecord) -> TaskRecord:
        """As `add`, unless there is a task with its idempotency key: then that one's record is returned."""
        async with self._database.write() as connection:
            adding = insert_or_update(connection.dialect.name, tasks).values(row_of(record))
            once = adding.on_conflict_do_nothing(index_elements=[tasks.c.idempotency_key])
            if (await connection.execute(once.returning(tasks.c.id))).first() is not None:
                return record
            return record_of((await connection.execute(with_key(record))).one())

    def update(self, record: TaskRecord) -> None:
        """Record a new state of the worker's own task: visible at once, written in the background."""
        self._writer.put(record)

    async def flush(self) -> None:
        """Return when all that was updated is durable. Raises StoreUnavailable: it is written later."""
        await self._writer.flush()

    def report(self, record: TaskRecord, number: int, name: str, data: dict[str, Any]) -> None:
        """Keep what a task of the worker reported, for followers at other façades; `number` counts from 0."""
        self._writer.report(record.id, StoredEvent(record.attempt, number, name, data))

    @contextmanager
    def changes(self) -> Iterator[Subscription]:
        """Notices that tasks lost their owner, or that the worker is asked to cancel some."""
        with self._database.changes.subscribed(FREE, self.worker) as subscription:
            yield subscription

    async def complete(self, record: TaskRecord) -> bool:
        """Record an outcome; True when it is durable. False: the task is no longer the worker's.

        Raises StoreUnavailable: the outcome waits in memory and is written later. The call can be repeated.
        """
        self._writer.put(record)
        await self._writer.flush()
        return not self._writer.was_refused(record.id)

    async def claim(self, lanes: Collection[str], limit: int) -> list[TaskRecord]:
        """Take over open tasks that have no owner, or whose owner's lease has ended; the oldest first.

        Raises StoreUnavailable.
        """
        # One owner after another, by the index: the tasks of those who live are not looked at.
        async with self._database.read() as connection:
            dead = (await connection.execute(select(workers.c.id).where(self._has_ended()))).scalars().all()
            found = [
                owner
                for owner in (None, *dead)
                if (await connection.execute(self._of(owner, lanes).limit(1))).first() is not None
            ]
        claimed: list[TaskRecord] = []
        for owner in found:
            if len(claimed) < limit:
                claimed += await self._claim_of(owner, lanes, limit - len(claimed))
        return sorted(claimed, key=lambda record: (record.created, record.id))

    def _of(self, owner: str | None, lanes: Collection[str]) -> Select[str]:
        """Ids of the open tasks of a worker that is dead, or of those of none."""
        whose: ColumnElement[bool] = tasks.c.owner.is_(None)
        if owner is not None:
            ended = select(workers.c.id).where(workers.c.id == owner, self._has_ended())
            whose = and_(tasks.c.owner == owner, exists(ended))
        return select(tasks.c.id).where(IS_OPEN, whose, tasks.c.lane.in_(lanes))

    async def _claim_of(self, owner: str | None, lanes: Collection[str], limit: int) -> list[TaskRecord]:
        oldest = self._of(owner, lanes).order_by(tasks.c.created, tasks.c.id).limit(limit)
        # Apart, so that PostgreSQL selects once; in the condition it may do so again for each row.
        oldest_ids = oldest.with_for_update(skip_locked=True).cte()
        taken = (
            update(tasks)
            .where(tasks.c.id.in_(select(oldest_ids.c.id)), tasks.c.owner.is_not_distinct_from(owner))
            .values(
                owner=self.worker,
                attempt=tasks.c.attempt + 1,
                **GIVEN_BACK,
            )
            .returning(*tasks.c)
        )
        async with self._database.write() as connection:
            return [record_of(row) for row in await connection.execute(taken)]

    async def extend(self) -> bool:
        """Let the worker's lease begin anew. Raises StoreUnavailable.

        False: there was none, or it had ended, so that other workers may have claimed tasks of this one.
        """
        moment = self._clock()
        query = select(workers.c.id).where(workers.c.id == self.worker, workers.c.lease_until > moment)
        async with self._database.write() as connection:
            held = (await connection.execute(query)).first() is not None
            lease = insert_or_update(connection.dialect.name, workers).values(
                id=self.worker, lease_until=moment + self._lease
            )
            await connection.execute(
                lease.on_conflict_do_update(
                    index_elements=[workers.c.id], set_={"lease_until": lease.excluded.lease_until}
                )
            )
            forgotten = workers.c.lease_until < moment - FORGOTTEN
            gone = tasks.c.owner.in_(select(workers.c.id).where(forgotten))
            await connection.execute(update(tasks).where(IS_OPEN, gone).values(owner=None))
            await connection.execute(delete(workers).where(forgotten))
        return held

    async def owned(self) -> set[str]:
        """Ids of the worker's open tasks. Raises StoreUnavailable."""
        query = select(tasks.c.id).where(IS_OPEN, tasks.c.owner == self.worker)
        async with self._database.read() as connection:
            return set((await connection.execute(query)).scalars())

    async def release(self) -> int:
        """Give back all open tasks of the worker, for others to claim; returns how many.

        At a start, those are the tasks of the last run under the worker's name. Raises StoreUnavailable.
        """
        await self._writer.flush()  # a state that is written later would be refused
        mine = and_(IS_OPEN, tasks.c.owner == self.worker)
        given = update(tasks).where(mine).values(owner=None, **GIVEN_BACK)
        async with self._database.write() as connection:
            count = (await connection.execute(given)).rowcount
            if count:
                await self._database.changes.announce(connection, [FREE])
            return count

    async def cancel(self, task_id: str) -> None:
        """Ask the owner of an open task to cancel it. Raises StoreUnavailable."""
        asked = update(tasks).where(tasks.c.id == task_id, IS_OPEN)
        async with self._database.write() as connection:
            cancelled = asked.values(cancel_requested=True).returning(tasks.c.owner)
            owners = (await connection.execute(cancelled)).scalars()
            await self._database.changes.announce(
                connection, [owner for owner in owners if owner is not None]
            )

    async def cancel_requests(self) -> list[str]:
        """Ids of the worker's open tasks that it is to cancel. Raises StoreUnavailable."""
        query = select(tasks.c.id).where(IS_OPEN, tasks.c.owner == self.worker, tasks.c.cancel_requested)
        async with self._database.read() as connection:
            return list((await connection.execute(query)).scalars())

    def _has_ended(self) -> ColumnElement[bool]:
        """Of leases: it is over, and another worker's."""
        return and_(workers.c.lease_until <= self._clock(), workers.c.id != self.worker)
