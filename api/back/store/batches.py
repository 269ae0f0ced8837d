"""Batches and the answers to their lines. Several façades may share them, as they share the queue of tasks.

A worker claims a batch, and every write of it depends on the worker and the attempt: one that lost its lease
changes nothing. The state changes by compare-and-set, since any façade may ask for a cancellation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    true,
    update,
)

from api.back.store.database import Database
from api.back.store.records import BatchError, BatchRecord, BatchResult, BatchState, now
from api.back.store.tables import batch_results, batches, workers
from api.caller import Caller, Limits, Scope
from api.errors import Conflict, NotFound

OPEN = [state.value for state in BatchState if state.open]
CANCELLABLE = [BatchState.VALIDATING.value, BatchState.IN_PROGRESS.value]
PAGE = 200  # answers that are read at once, at most
PAGE_CHARACTERS = 1 << 20  # of these, unless one has more

Records = list[BatchRecord]  # inside the class, `list` is its own method


class BatchStore:
    """A batch belongs to its owner, and does not exist for another one. `owner` None: anybody's."""

    def __init__(self, database: Database, worker: str, clock: Callable[[], datetime] = now) -> None:
        self.worker = worker
        self._database = database
        self._clock = clock

    async def add(self, record: BatchRecord) -> None:
        """Durable when it returns."""
        async with self._database.write() as connection:
            await connection.execute(insert(batches).values(_row_of(record)))

    async def get(self, batch_id: str, owner: str | None) -> BatchRecord:
        """Raises NotFound."""
        query = select(batches).where(batches.c.id == batch_id, _of(owner))
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise NotFound(f"batch {batch_id[:64]!r} does not exist")
        return _record_of(row)

    async def list(self, owner: str | None, *, limit: int, after: str | None) -> Records:
        """Newest first; `after` is the id of the batch to go on after. Raises NotFound."""
        order = (batches.c.created.desc(), batches.c.id.desc())
        query = select(batches).where(_of(owner)).order_by(*order).limit(limit)
        if after is not None:
            last = await self.get(after, owner)
            same_time = and_(batches.c.created == last.created, batches.c.id < last.id)
            query = query.where(or_(batches.c.created < last.created, same_time))
        async with self._database.read() as connection:
            return [_record_of(row) for row in await connection.execute(query)]

    async def count_open(self, owner: str | None) -> int:
        query = select(func.count()).select_from(batches).where(batches.c.state.in_(OPEN), _of(owner))
        async with self._database.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def uses(self, file_id: str) -> bool:
        """Whether an open batch reads the file."""
        query = select(batches.c.id).where(batches.c.input_file == file_id, batches.c.state.in_(OPEN))
        async with self._database.read() as connection:
            return (await connection.execute(query.limit(1))).first() is not None

    async def cancel(self, batch_id: str, owner: str | None) -> BatchRecord:
        """Ask its worker to end it. Raises NotFound; Conflict where it is over, or nearly."""
        record = await self.get(batch_id, owner)
        if record.state in (BatchState.CANCELLING, BatchState.CANCELLED):
            return record
        times = {**record.times, BatchState.CANCELLING.value: self._clock().timestamp()}
        here = (batches.c.id == batch_id, batches.c.state.in_(CANCELLABLE))
        async with self._database.write() as connection:
            done = await connection.execute(
                update(batches).where(*here).values(state=BatchState.CANCELLING.value, times=times)
            )
        record = await self.get(batch_id, owner)
        if done.rowcount == 0 and record.state not in (BatchState.CANCELLING, BatchState.CANCELLED):
            raise Conflict(f"batch {batch_id} is {record.state.value} and cannot be cancelled any more")
        return record

    async def claim(self, running: Collection[str], limit: int) -> Records:
        """Take open batches that no façade works on; the oldest first. `running`: those that run here."""
        leased = select(workers.c.id).where(workers.c.lease_until > self._clock())
        unattended = or_(
            batches.c.worker.is_(None), batches.c.worker == self.worker, batches.c.worker.not_in(leased)
        )
        free = and_(batches.c.state.in_(OPEN), unattended, batches.c.id.not_in(list(running)))
        oldest = select(batches.c.id).where(free).order_by(batches.c.created, batches.c.id).limit(limit)
        async with self._database.read() as connection:  # most of the time there is nothing to write
            if (await connection.execute(oldest.limit(1))).first() is None:
                return []
        taken = (
            update(batches)
            .where(batches.c.id.in_(oldest.with_for_update(skip_locked=True)), free)
            .values(worker=self.worker, attempt=batches.c.attempt + 1)
            .returning(*batches.c)
        )
        async with self._database.write() as connection:
            records = [_record_of(row) for row in await connection.execute(taken)]
        return sorted(records, key=lambda record: (record.created, record.id))

    async def release(self) -> None:
        """Let other façades claim the worker's open batches."""
        mine = and_(batches.c.worker == self.worker, batches.c.state.in_(OPEN))
        async with self._database.write() as connection:
            await connection.execute(update(batches).where(mine).values(worker=None))

    async def states(self, batch_ids: Collection[str]) -> dict[str, BatchState]:
        """Of those that are the worker's."""
        query = select(batches.c.id, batches.c.state).where(
            batches.c.id.in_(list(batch_ids)), batches.c.worker == self.worker
        )
        async with self._database.read() as connection:
            return {row.id: BatchState(row.state) for row in await connection.execute(query)}

    async def advance(self, record: BatchRecord, state: BatchState, **changes: Any) -> BatchRecord | None:
        """Give it its next state. None: it is not the worker's any more, or its state has changed."""
        times = {**record.times, state.value: self._clock().timestamp()}
        moved = dataclasses.replace(record, **changes, state=state, times=times)
        row = _row_of(moved)
        values = {name: row[name] for name in ("state", "times", *changes)}
        here = and_(_mine(record), batches.c.state == record.state.value)
        async with self._database.write() as connection:
            done = await connection.execute(update(batches).where(here).values(values))
            if done.rowcount and not state.open:
                await connection.execute(delete(batch_results).where(batch_results.c.batch == record.id))
        return moved if done.rowcount else None

    async def current(self, record: BatchRecord) -> BatchRecord | None:
        """The record as it is now. None: it is not the worker's any more."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(batches).where(_mine(record)))).one_or_none()
        return None if row is None else _record_of(row)

    async def add_results(self, record: BatchRecord, results: Sequence[BatchResult]) -> bool:
        """Keep the answers to some lines, with the counts. False: it is not the worker's, nothing is kept."""
        failed = sum(result.failed for result in results)
        counts = {
            "completed": batches.c.completed + len(results) - failed,
            "failed": batches.c.failed + failed,
        }
        rows = [{"batch": record.id, **dataclasses.asdict(result)} for result in results]
        async with self._database.write() as connection:
            done = await connection.execute(update(batches).where(_mine(record)).values(counts))
            if done.rowcount:
                await connection.execute(insert(batch_results), rows)
        return bool(done.rowcount)

    async def answered(self, record: BatchRecord) -> tuple[set[int], int]:
        """Numbers of the lines whose answers are kept, and the bytes of these answers, about."""
        here = batch_results.c.batch == record.id
        async with self._database.read() as connection:
            numbers = (await connection.execute(select(batch_results.c.number).where(here))).scalars().all()
            size = select(func.coalesce(func.sum(func.length(batch_results.c.line)), 0)).where(here)
            return set(numbers), int((await connection.execute(size)).scalar_one())

    async def results(self, record: BatchRecord, *, failed: bool, after: int = 0) -> Sequence[BatchResult]:
        """The answers to the next lines after `after`, in the order of the lines; none: no more."""
        number, line = batch_results.c.number, batch_results.c.line
        here = and_(batch_results.c.batch == record.id, batch_results.c.failed.is_(failed), number > after)
        sizes = select(number, func.length(line)).where(here).order_by(number).limit(PAGE)
        async with self._database.read() as connection:
            last = total = 0
            for found, size in await connection.execute(sizes):
                total += size
                if last and total > PAGE_CHARACTERS:
                    break
                last = found
            page = select(number, batch_results.c.failed, line).where(here, number <= last).order_by(number)
            return [BatchResult(*row) for row in await connection.execute(page)]

    async def sweep(self, before: datetime) -> int:
        """Delete the records of batches that were made before, and are over; returns how many."""
        old = and_(batches.c.created < before, batches.c.state.not_in(OPEN))
        async with self._database.write() as connection:
            return (await connection.execute(delete(batches).where(old))).rowcount


def _of(owner: str | None) -> ColumnElement[bool]:
    return true() if owner is None else batches.c.owner == owner


def _mine(record: BatchRecord) -> ColumnElement[bool]:
    return and_(
        batches.c.id == record.id, batches.c.worker == record.worker, batches.c.attempt == record.attempt
    )


def _row_of(record: BatchRecord) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in BatchRecord.__slots__}
    return {
        **fields,
        "state": record.state.value,
        "caller": record.caller.address,
        "caller_key": record.caller.key,
        "caller_scopes": " ".join(sorted(record.caller.scopes)),
        "models": None if record.caller.limits.models is None else sorted(record.caller.limits.models),
        "owner": record.caller.fairness_key,
        "errors": [dataclasses.asdict(error) for error in record.errors],
    }


def _record_of(row: Row[Any]) -> BatchRecord:
    fields = dict(row._mapping)
    del fields["owner"]
    scopes = frozenset(map(Scope, fields.pop("caller_scopes").split()))
    models = fields.pop("models")
    limits = Limits(models=None if models is None else frozenset(models))
    fields["caller"] = Caller(row.caller, fields.pop("caller_key"), scopes, limits)
    errors = tuple(BatchError(**error) for error in row.errors or ())
    return BatchRecord(**{**fields, "state": BatchState(row.state), "errors": errors})
