"""Keeps the lease of this façade, and does for the shared queue what its lease allows."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging

from pydantic import ValidationError

from api.back.store.records import TaskRecord
from api.back.store.task_queue import TaskQueue
from api.errors import Cancelled, InvalidInput, ServerFault, StoreUnavailable
from api.middle.handlers.base import Lane
from api.middle.job import Job
from api.middle.tasks import CANCELLED, TaskManager

CLAIM_BATCH = 500  # tasks claimed in one transaction
MAX_INTERRUPTIONS = 3
INTERRUPTED = (
    f"the task ran {MAX_INTERRUPTIONS} times when its server died or lost the database; it is not tried again"
)
HEARTBEAT_SECONDS = 5.0  # a quarter of a lease: three heartbeats may fail before it ends

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Extends the lease, claims tasks without an owner, and cancels tasks as other façades ask."""

    def __init__(self, queue: TaskQueue, tasks: TaskManager, seconds: float = HEARTBEAT_SECONDS) -> None:
        self._queue = queue
        self._tasks = tasks
        self._seconds = seconds
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up what the last run of this façade left, and what others did. Raises StoreUnavailable."""
        await self._queue.release()
        await self.beat()
        self._loop = asyncio.create_task(self._beat_regularly())

    async def stop(self) -> None:
        """Give back what is still open. Where that cannot be written, this façade's next start does it."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        if self._queue.failure is None:
            with contextlib.suppress(StoreUnavailable):
                await self._queue.release()

    async def beat(self) -> None:
        """Raises StoreUnavailable."""
        if not await self._queue.extend():
            await self._end_lost_tasks()
        for task_id in await self._queue.cancel_requests():
            job = self._tasks.active(task_id)
            if job is not None:
                self._tasks.abort(job, Cancelled(CANCELLED))
        await self.take_up()

    async def take_up(self) -> None:
        """Claim tasks that have no owner, as far as there is room. Raises StoreUnavailable."""
        lanes = [lane.value for lane in Lane]
        while not self._tasks.stopping and (limit := min(self._tasks.admission.room, CLAIM_BATCH)):
            claimed = await self._queue.claim(lanes, limit)
            for record in claimed:
                self._resume(record)
            if len(claimed) < limit:
                break

    def _resume(self, record: TaskRecord) -> None:
        """Line up a claimed task, or close it where it cannot be done."""
        job = self._tasks.active(record.id)
        if job is not None:  # it was lost to another façade, which gave it back, and still runs here
            job.record = dataclasses.replace(job.record, attempt=record.attempt)
            return
        if not record.asynchronous:
            self._tasks.fail(record, ServerFault("the façade restarted while the task ran"))
            return
        if record.interruptions >= MAX_INTERRUPTIONS:
            self._tasks.fail(record, ServerFault(INTERRUPTED))
            return
        handler = self._tasks.handlers.get(record.type)
        try:
            if handler is None:
                raise InvalidInput.of("type", f"no task type {record.type!r}")
            parameters = handler.parameters.model_validate(record.parameters)
        except (InvalidInput, ValidationError):
            error = ServerFault("the task was queued by another release and cannot be read")
            self._tasks.fail(record, error)
            return
        job = self._tasks.line_up(Job(record, parameters))
        if record.cancel_requested:
            self._tasks.abort(job, Cancelled(CANCELLED))

    async def _end_lost_tasks(self) -> None:
        """End here what others claimed: its outcome is theirs."""
        known = self._tasks.queued_or_running()
        await self._tasks.lose(known - await self._queue.owned())

    async def _beat_regularly(self) -> None:
        with self._queue.changes() as noticed:
            while True:
                await noticed.wait(self._seconds)
                try:
                    await self.beat()
                except StoreUnavailable:  # the store logs it; the lease may last until it can be used again
                    continue
                except Exception:  # a defect, which must not cost the lease
                    log.exception("the lease of this façade was not extended, or tasks were not taken up")
