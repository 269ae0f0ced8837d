"""The Task Manager: one record per task, admission, the queue, and exactly one outcome for each.

A record of a synchronous task keeps its parameters with long texts cut, and no result; an asynchronous one's
keeps the parameters whole, since a restart takes it up again, and the result, since it is fetched later.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import time
from typing import Any

from pydantic import BaseModel, ValidationError

from api.back.store.records import TaskRecord, TaskState, now
from api.back.store.tasks import TaskStore
from api.errors import (
    ApiError,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    ServerFault,
    Unavailable,
)
from api.middle.handlers.base import Lane
from api.middle.job import Job, Outcome, seconds_since
from api.middle.metrics import Metrics
from api.middle.router import Router
from api.middle.schemas.base import TaskParameters

LONGEST_TEXT = 200  # characters of a text that a synchronous task's record keeps
LONGEST_LIST = 8  # items likewise

log = logging.getLogger(__name__)


class TaskManager:
    """Belongs to one event loop."""

    def __init__(
        self, store: TaskStore, router: Router, metrics: Metrics, *, max_in_flight: int, max_queued: int
    ) -> None:
        self.store = store
        self.router = router
        self.metrics = metrics
        self.max_in_flight = max_in_flight
        self.max_queued = max_queued
        self.queues: dict[Lane, asyncio.Queue[Job]] = {lane: asyncio.Queue() for lane in Lane}
        self._jobs: dict[str, Job] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._in_flight = 0  # synchronous jobs
        self._queued = 0  # asynchronous jobs that no worker has taken
        self._stopping = False

    def admit(self, task_type: str, parameters: TaskParameters, caller: str, account: str = "") -> Job:
        """A synchronous task, to be started at once. Raises Overloaded, Unavailable.

        `caller` goes on record; `account` is whom the engine's fairness counts the task to.
        """
        self._check_open()
        if self._in_flight >= self.max_in_flight:
            self.metrics.refused.labels(task_type).inc()
            raise Overloaded(f"{self._in_flight} tasks are in flight, which is the limit")
        record = TaskRecord(
            id=new_id(),
            type=task_type,
            state=TaskState.QUEUED,
            asynchronous=False,
            caller=caller,
            model=parameters.model,
            parameters=shortened(parameters.model_dump(exclude_unset=True)),
        )
        self._in_flight += 1
        return self._keep(Job(record, parameters, account))

    async def enqueue(
        self, task_type: str, parameters: TaskParameters, caller: str, account: str = ""
    ) -> Job:
        """An asynchronous task, durable when this returns. Raises Overloaded, Unavailable."""
        self._check_open()
        if self._queued >= self.max_queued:
            self.metrics.refused.labels(task_type).inc()
            raise Overloaded(f"{self._queued} tasks are waiting, which is the limit", retry_after=5)
        record = TaskRecord(
            id=new_id(),
            type=task_type,
            state=TaskState.QUEUED,
            asynchronous=True,
            caller=caller,
            model=parameters.model,
            parameters=parameters.model_dump(mode="json", exclude_unset=True),
        )
        self._queued += 1
        try:
            await self.store.add(record)
        except BaseException:
            self._queued -= 1
            raise
        return self._line_up(Job(record, parameters, account))

    async def recover(self) -> int:
        """Close or take up what the last run left open; returns how many tasks wait again."""
        for record in await self.store.unfinished():
            if not record.asynchronous:
                self._fail(record, ServerFault("the façade restarted while the task ran"))
                continue
            try:
                parameters = self.router.handler(record.type).parameters.model_validate(record.parameters)
            except (InvalidInput, ValidationError):
                self._fail(record, ServerFault("the task was queued by another release and cannot be read"))
                continue
            self._queued += 1
            self._line_up(Job(dataclasses.replace(record, state=TaskState.QUEUED, started=None), parameters))
        return self._queued

    def begin(self, job: Job) -> None:
        """A runner has taken the job."""
        if job.record.asynchronous:
            self._queued -= 1
        job.begin()
        self.store.put(job.record)
        self.metrics.in_flight.labels(job.record.type).inc()
        self.metrics.queued.set(self._queued)

    def settle(self, job: Job, runner: asyncio.Task[BaseModel]) -> None:
        """The runner ended, in whatever way: record the outcome."""
        self.metrics.in_flight.labels(job.record.type).dec()
        if runner.cancelled():
            self._close(job, failure(job.abort_reason or Cancelled("the task was cancelled")))
            return
        error = runner.exception()
        if error is None:
            self._close(job, Outcome(TaskState.DONE, answer=runner.result()))
        elif isinstance(error, ApiError):
            self._close(job, failure(error))
        else:
            log.error("task %s (%s) failed", job.id, job.record.type, exc_info=error)
            self._close(
                job, failure(ServerFault("the task failed by a defect of the server; its log says more"))
            )

    def abort(self, job: Job, reason: ApiError) -> None:
        """End a job, whether it runs or waits."""
        job.abort(reason)
        if job.runner is None and job.outcome is None:
            if job.record.asynchronous:
                self._queued -= 1
                self.metrics.queued.set(self._queued)
            self._close(job, failure(reason))

    def active(self, task_id: str) -> Job | None:
        """The job, while it has no outcome."""
        return self._jobs.get(task_id)

    def find(self, task_type: str, model: str) -> list[Job]:
        """The open jobs of a type about a model."""
        return [
            job for job in self._jobs.values() if job.record.type == task_type and job.record.model == model
        ]

    async def get(self, task_id: str) -> TaskRecord:
        """Raises NotFound."""
        job = self._jobs.get(task_id)
        return job.record if job else await self.store.get(task_id)

    async def cancel(self, task_id: str) -> TaskRecord:
        """End the task if it is open; returns its record with the outcome. Raises NotFound."""
        job = self._jobs.get(task_id)
        if job is None:
            return await self.store.get(task_id)
        self.abort(job, Cancelled("the task was cancelled by request"))
        while job.outcome is None:
            await job.after(len(job.events))
        return job.record

    async def drain(self, seconds: float) -> None:
        """Admit nothing more, give running tasks `seconds`, then end them; queued ones stay queued."""
        self._stopping = True
        running = {job.runner for job in self._jobs.values() if job.runner is not None}
        if running:
            await asyncio.wait(running, timeout=seconds)
        for job in list(self._jobs.values()):
            self.abort(job, Unavailable("the server is stopping", retry_after=5))
        running = {job.runner for job in self._jobs.values() if job.runner is not None}
        if running:
            await asyncio.wait(running)
            await asyncio.sleep(0)  # the runners' callbacks, which record the outcomes, come after them

    def _check_open(self) -> None:
        if self._stopping:
            raise Unavailable("the server is stopping", retry_after=5)

    def _keep(self, job: Job) -> Job:
        self._jobs[job.id] = job
        limit = job.parameters.deadline_ms
        if limit is not None:
            left = max(0.0, limit / 1000 - seconds_since(job.record.created))
            job.deadline = time.monotonic() + left
            reason = DeadlineExceeded(f"the deadline of {limit} ms passed")
            loop = asyncio.get_running_loop()
            self._timers[job.id] = loop.call_later(left, self.abort, job, reason)
        return job

    def _line_up(self, job: Job) -> Job:
        self._keep(job)
        self.queues[self.router.handler(job.record.type).lane].put_nowait(job)
        self.metrics.queued.set(self._queued)
        return job

    def _close(self, job: Job, outcome: Outcome) -> None:
        if job.outcome is not None:
            return
        record = dataclasses.replace(job.record, state=outcome.state, finished=now())
        if self._stopping and record.asynchronous and isinstance(outcome.error, Unavailable):
            # Not an outcome: the next start takes it up.
            record = dataclasses.replace(job.record, state=TaskState.QUEUED, started=None)
        elif record.asynchronous and outcome.answer is not None:
            record = dataclasses.replace(record, result=outcome.answer.model_dump(mode="json"))
        elif outcome.error is not None:
            record = dataclasses.replace(record, error=error_record(outcome.error))
        job.close(outcome, record)
        del self._jobs[job.id]
        self._in_flight -= 0 if record.asynchronous else 1
        timer = self._timers.pop(job.id, None)
        if timer is not None:
            timer.cancel()
        self.store.put(record)
        self.metrics.outcomes.labels(record.type, record.state.value).inc()
        self.metrics.task_seconds.labels(record.type).observe(time.perf_counter() - job.arrived)

    def _fail(self, record: TaskRecord, error: ApiError) -> None:
        self.store.put(
            dataclasses.replace(record, state=TaskState.FAILED, error=error_record(error), finished=now())
        )
        self.metrics.outcomes.labels(record.type, TaskState.FAILED.value).inc()


def new_id() -> str:
    """Unique, and in order of time."""
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(6)}"


def failure(error: ApiError) -> Outcome:
    """The outcome that an error means."""
    if isinstance(error, DeadlineExceeded):
        return Outcome(TaskState.EXPIRED, error=error)
    if isinstance(error, Cancelled):
        return Outcome(TaskState.CANCELLED, error=error)
    return Outcome(TaskState.FAILED, error=error)


def error_record(error: ApiError) -> dict[str, Any]:
    """An error as a task's record keeps it."""
    family = next(kind for kind in type(error).__mro__ if kind.__module__ == ApiError.__module__)
    kept: dict[str, Any] = {"error": family.__name__, "detail": error.detail}
    if error.errors:
        kept["errors"] = [{"field": item.field, "message": item.message} for item in error.errors]
    return kept


def shortened(value: Any) -> Any:
    """Parameters with long texts and lists cut, saying by how much."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"{value[:LONGEST_TEXT]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        kept = [shortened(item) for item in value[:LONGEST_LIST]]
        return kept if len(value) <= LONGEST_LIST else [*kept, f"… ({len(value)} items)"]
    return value
