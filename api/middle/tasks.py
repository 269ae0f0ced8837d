"""The Task Manager: one record per task, and exactly one outcome for each."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import BaseModel

from api.back.store.records import TaskError, TaskRecord, TaskState, now
from api.back.store.task_queue import TaskQueue
from api.back.store.tasks import TaskStore
from api.caller import Caller
from api.errors import (
    ApiError,
    Cancelled,
    DeadlineExceeded,
    NotFound,
    ServerFault,
    StoreUnavailable,
    Unavailable,
)
from api.middle.admission import STOPPING_RETRY_SECONDS, Admission
from api.middle.handlers.base import Handler, Lane
from api.middle.job import Job, Outcome, seconds_since
from api.middle.metrics import NO_MODEL, Metrics
from api.middle.new_records import new_record
from api.middle.queue import JobQueue
from api.middle.schemas.base import TaskParameters

RETRY_SECONDS = 0.5  # between two looks whether an outcome can be recorded
MAX_CLOSING = 64  # outcomes that wait for that; the workers take no more tasks meanwhile
LAST_COMMIT_SECONDS = 1.0  # for outcomes to be recorded at a stop, after all tasks have ended
CANCEL_SECONDS = 7.0  # to wait for another façade's heartbeat, and its outcome
POLL_SECONDS = 0.2
CANCELLED = "the task was cancelled by request"
TAKEN_OVER = "another server has taken over the task"

log = logging.getLogger(__name__)


class TaskManager:
    """Belongs to one event loop."""

    def __init__(
        self,
        queue: TaskQueue,
        store: TaskStore,
        handlers: Mapping[str, Handler[Any, Any]],
        metrics: Metrics,
        *,
        max_in_flight: int,
        max_queued: int,
    ) -> None:
        self.queue = queue
        self.store = store
        self.handlers = handlers
        self.metrics = metrics
        self.waiting = {lane: JobQueue() for lane in Lane}
        self.admission = Admission(self.waiting, metrics, max_in_flight=max_in_flight, max_queued=max_queued)
        self.observers: list[Callable[[Job], None]] = []  # of each job that has ended here
        self._jobs: dict[str, Job] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closing: dict[str, asyncio.Task[None]] = {}  # the outcome is known, and is being recorded
        self._lost: set[str] = set()  # another façade has claimed them, and they are ending here
        metrics.store_waiting.set_function(lambda: queue.num_waiting)
        metrics.queue_age.set_function(self._oldest_waiting_seconds)
        metrics.store_failing.set_function(lambda: queue.failure is not None)

    @property
    def stopping(self) -> bool:
        return self.admission.closed

    def admit(self, task_type: str, parameters: TaskParameters, caller: Caller) -> Job:
        """A synchronous task, to be started at once. Raises Forbidden, RetryLater."""
        caller.require_model(parameters.model)
        self.admission.take_permit(caller, parameters.cost)
        record = new_record(self.handlers[task_type], parameters, caller, self.queue.worker)
        return self._keep(Job(record, parameters))

    async def enqueue(self, task_type: str, parameters: TaskParameters, caller: Caller) -> Job:
        """An asynchronous task, durable when this returns.

        Raises Forbidden, Overloaded, RateLimited, Unavailable.
        StoreUnavailable: it cannot be recorded, and will not run.
        """
        handler = self.handlers[task_type]
        caller.require(handler.scope)
        caller.require_model(parameters.model)
        record = new_record(handler, parameters, caller, self.queue.worker, asynchronous=True)
        with self.admission.arriving(handler.lane, caller, parameters.cost, parameters.deadline_ms):
            await self.queue.add(record)
        return self.line_up(Job(record, parameters))

    def line_up(self, job: Job) -> Job:
        """Let a recorded job wait for its turn."""
        job.reporter = lambda number, event: self.queue.report(job.record, number, event.name, event.data)
        self._queue_of(job).put(job)  # before its deadline, which takes it out again
        return self._keep(job)

    def begin(self, job: Job) -> None:
        """A runner has taken the job."""
        self.begin_run(job)
        if job.record.asynchronous:
            self.metrics.queue_seconds.labels(job.record.type).observe(seconds_since(job.record.created))
        self.metrics.in_flight.labels(job.record.type).inc()

    def begin_run(self, job: Job) -> None:
        """Its handler is started, for the first time or again."""
        job.begin()
        self.queue.update(job.record)

    def settle(self, job: Job, runner: asyncio.Task[BaseModel]) -> None:
        """The runner ended, in whatever way: record the outcome."""
        self.metrics.in_flight.labels(job.record.type).dec()
        if runner.cancelled():
            self._close(job, Outcome.failed(job.abort_reason or Cancelled("the task was cancelled")))
            return
        error = runner.exception()
        if error is None:
            self._close(job, Outcome(TaskState.DONE, answer=runner.result()))
        elif isinstance(error, ApiError):
            self._close(job, Outcome.failed(error))
        else:
            job.log_context.enter()  # in this callback alone
            log.error("task %s (%s) failed", job.id, job.record.type, exc_info=error)
            self._close(
                job,
                Outcome.failed(ServerFault("the task failed by a defect of the server; its log says more")),
            )

    def fail(self, record: TaskRecord, error: ApiError) -> None:
        """Close a task that has no job."""
        self.queue.update(
            dataclasses.replace(record, state=TaskState.FAILED, error=TaskError.of(error), finished=now())
        )
        self.metrics.outcomes.labels(record.type, TaskState.FAILED.value).inc()

    def abort(self, job: Job, reason: ApiError) -> None:
        """End a job, whether it runs or waits."""
        job.abort(reason)
        if job.runner is None and job.outcome is None and job.id not in self._closing:
            if job.record.asynchronous:
                self._queue_of(job).remove(job)
            self._close(job, Outcome.failed(reason))

    async def end(self, job: Job, reason: ApiError) -> None:
        """Abort it and wait for its outcome. Raises StoreUnavailable while that cannot be recorded."""
        self.abort(job, reason)
        await job.ended()

    async def lose(self, task_ids: Collection[str]) -> None:
        """End jobs that another façade has claimed, without an outcome; returns when they have ended here."""
        jobs = [self._jobs[task_id] for task_id in task_ids if task_id in self._jobs]
        self._lost.update(job.id for job in jobs)
        for job in jobs:
            self.abort(job, Unavailable(TAKEN_OVER))
        for job in jobs:
            await job.ended()

    def active(self, task_id: str) -> Job | None:
        """The job, while it has no outcome."""
        return self._jobs.get(task_id)

    def queued_or_running(self) -> set[str]:
        """Ids of the asynchronous jobs whose outcome is not known."""
        return {
            job.id for job in self._jobs.values() if job.record.asynchronous and job.id not in self._closing
        }

    def find(self, task_type: str, model: str) -> list[Job]:
        """The open jobs of a type about a model."""
        return [
            job for job in self._jobs.values() if job.record.type == task_type and job.record.model == model
        ]

    async def get(self, task_id: str) -> TaskRecord:
        """Raises NotFound."""
        job = self._jobs.get(task_id)
        return job.record if job else await self.store.get(task_id)

    async def seen_by(self, caller: Caller, task_id: str) -> TaskRecord:
        """Raises NotFound, also for a task that is another caller's."""
        record = await self.get(task_id)
        if not caller.owns(record.caller):
            raise NotFound(f"task {task_id!r} does not exist")
        return record

    async def page(
        self,
        caller: Caller,
        *,
        type: str | None,  # noqa: A002 - the record's field
        state: TaskState | None,
        limit: int,
        before: str | None,
    ) -> list[TaskRecord]:
        """What the caller may see, newest first. Raises NotFound: `before`, the task to go on after."""
        if before is not None:
            await self.seen_by(caller, before)
        key = None if caller.owns_all else caller.key
        return await self.store.list(type=type, state=state, limit=limit, before=before, caller_key=key)

    async def cancel(self, task_id: str) -> TaskRecord:
        """End the task if it is open; returns its record with the outcome.

        Another façade's task has its outcome a moment later, so that the record may still be open.
        Raises NotFound; StoreUnavailable while the outcome cannot be recorded.
        """
        job = self._jobs.get(task_id)
        if job is None:
            return await self._cancel_elsewhere(task_id)
        await self.end(job, Cancelled(CANCELLED))
        return job.record

    async def _cancel_elsewhere(self, task_id: str) -> TaskRecord:
        """A task that this façade does not have: it is over, or another one's."""
        record = await self.store.get(task_id)
        if not record.state.finished:
            await self.queue.cancel(task_id)
            end = time.monotonic() + CANCEL_SECONDS
            while not record.state.finished and time.monotonic() < end:
                await asyncio.sleep(POLL_SECONDS)
                record = await self.store.get(task_id)
        return record

    async def await_room(self) -> None:
        """Return when few enough outcomes wait for the database: memory is finite."""
        while len(self._closing) >= MAX_CLOSING:
            await asyncio.wait(self._closing.values(), return_when=asyncio.FIRST_COMPLETED)

    async def drain(self, seconds: float) -> None:
        """Admit nothing more, give running tasks `seconds`, then end them; those that wait keep waiting.

        A task whose outcome cannot be recorded now keeps waiting, too: its outcome was not reported, and the
        next owner runs it again.
        """
        self.admission.close()
        running = {job.runner for job in self._jobs.values() if job.runner is not None}
        if running:
            await asyncio.wait(running, timeout=seconds)
        for job in list(self._jobs.values()):
            self.abort(job, Unavailable("the server is stopping", STOPPING_RETRY_SECONDS))
        running = {job.runner for job in self._jobs.values() if job.runner is not None}
        if running:
            await asyncio.wait(running)
            await asyncio.sleep(0)  # the runners' callbacks, which record the outcomes, come after them
        if self._closing:
            await asyncio.wait(self._closing.values(), timeout=LAST_COMMIT_SECONDS)
        for job_id, closing in list(self._closing.items()):
            closing.cancel()
            self._leave_open(self._jobs[job_id])

    def _oldest_waiting_seconds(self) -> float:
        waiting = [job.record.created for job in self._jobs.values() if job.record.state is TaskState.QUEUED]
        return seconds_since(min(waiting)) if waiting else 0.0

    def _queue_of(self, job: Job) -> JobQueue:
        return self.waiting[self.handlers[job.record.type].lane]

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

    def _close(self, job: Job, outcome: Outcome) -> None:
        """Record the outcome and publish it: that of an asynchronous task not before it is durable."""
        if job.outcome is not None or job.id in self._closing:
            return
        if job.id in self._lost:
            self._publish_lost(job)
            return
        record = dataclasses.replace(job.record, state=outcome.state, finished=now())
        if (
            self.stopping
            and record.asynchronous
            and isinstance(outcome.error, (Unavailable, StoreUnavailable))
        ):
            # Before it is given back: it did not cost this façade its life.
            self.queue.update(dataclasses.replace(job.record, state=TaskState.QUEUED, started=None))
            self._leave_open(job)
            return
        if record.asynchronous and outcome.answer is not None:
            record = dataclasses.replace(record, result=outcome.answer.model_dump(mode="json"))
        elif outcome.error is not None:
            record = dataclasses.replace(record, error=TaskError.of(outcome.error))
        if record.asynchronous:
            self._closing[job.id] = asyncio.create_task(self._close_durably(job, outcome, record))
        else:
            self.queue.update(record)
            self._publish(job, outcome, record)

    async def _close_durably(self, job: Job, outcome: Outcome, record: TaskRecord) -> None:
        """The queue keeps the record, and writes it as soon as it can."""
        while True:
            try:
                # The attempt may have changed meanwhile.
                record = dataclasses.replace(record, attempt=job.record.attempt)
                owned = await self.queue.complete(record)
                break
            except StoreUnavailable as error:
                job.hold_up(error)
            await asyncio.sleep(RETRY_SECONDS)
        del self._closing[job.id]
        if owned:
            self._publish(job, outcome, record)
        else:
            self._publish_lost(job)

    def _publish_lost(self, job: Job) -> None:
        """The outcome is the other façade's; who waits here learns only that."""
        self._lost.discard(job.id)
        self._publish(job, Outcome.failed(Unavailable(TAKEN_OVER)), job.record)

    def _leave_open(self, job: Job) -> None:
        """No outcome: the next owner runs it."""
        record = dataclasses.replace(job.record, state=TaskState.QUEUED, started=None)
        reason = Unavailable("the server is stopping", STOPPING_RETRY_SECONDS)
        self._publish(job, Outcome.failed(reason), record)

    def _publish(self, job: Job, outcome: Outcome, record: TaskRecord) -> None:
        job.close(outcome, record)
        del self._jobs[job.id]
        if not record.asynchronous:
            self.admission.return_permit(record.caller)
        self.admission.allowances.give_back(record.caller, job.need - job.tokens_to_pay)
        for observer in self.observers:
            observer(job)
        timer = self._timers.pop(job.id, None)
        if timer is not None:
            timer.cancel()
        if record.state.finished:
            self.metrics.outcomes.labels(record.type, record.state.value).inc()
        model = job.log_context.model or NO_MODEL
        self.metrics.task_seconds.labels(record.type, model).observe(time.perf_counter() - job.arrived)
