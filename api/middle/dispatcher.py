"""The Job Dispatcher: hands tasks to their handlers; asynchronous ones wait in their lane's queue."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from api import tracing
from api.caller import Caller
from api.errors import RetryLater
from api.middle.handlers.base import Handler, Lane
from api.middle.job import Job
from api.middle.schemas.base import TaskParameters
from api.middle.tasks import TaskManager

PATIENCE_SECONDS = 60.0  # longer than a model server takes to heal, or to load at a start
MAX_FAILURES = 10  # that may pass, within that time
FIRST_WAIT_SECONDS = 0.5  # after such a failure; then twice as long each time
LONGEST_WAIT_SECONDS = 15.0


class Dispatcher:
    """`workers` says how many tasks of a lane run at once."""

    def __init__(self, tasks: TaskManager, workers: Mapping[Lane, int]) -> None:
        self._tasks = tasks
        self._num_workers = workers
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to take tasks from the queues."""
        self._workers = [
            asyncio.create_task(self._work(lane))
            for lane, count in self._num_workers.items()
            for _ in range(count)
        ]

    async def stop(self) -> None:
        """Take no more tasks from the queues; those that run go on."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._workers = []

    def submit(self, task_type: str, parameters: TaskParameters, caller: Caller) -> Job:
        """Start a synchronous task. Raises Overloaded, Unavailable."""
        job = self._tasks.admit(task_type, parameters, caller)
        self.run(job)
        return job

    def run(self, job: Job) -> asyncio.Task[BaseModel]:
        """Start the job's handler. The outcome is recorded when the runner ends, even if it never began."""
        self._tasks.begin(job)
        runner = asyncio.create_task(self._answer(self._tasks.handlers[job.record.type], job))
        job.runner = runner
        runner.add_done_callback(lambda ended: self._tasks.settle(job, ended))
        return runner

    async def _work(self, lane: Lane) -> None:
        queue = self._tasks.waiting[lane]
        while True:
            await self._tasks.await_room()
            job = await queue.get()
            await asyncio.wait({self.run(job)})
            queue.settle(job)

    async def _answer(self, handler: Handler[Any, Any], job: Job) -> BaseModel:
        job.log_context.enter()
        with job.span.child("dispatch") as span:
            tracing.enter(span)
            if job.record.asynchronous:
                return await self._answer_patiently(handler, job)
            answer: BaseModel = await handler.run(job.parameters, job)
            return answer

    async def _answer_patiently(self, handler: Handler[Any, Any], job: Job) -> BaseModel:
        """Try again while a model server is away or full: the task's client does not wait for the answer.

        A task that has sent events is not begun anew, or its followers would read them twice.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        failures = 0
        while True:
            try:
                if job.record.attempt > 1:
                    # Its last owner may have died of it: that it runs is durable before it can end this one.
                    await self._tasks.queue.flush()
                answer: BaseModel = await handler.run(job.parameters, job)
                return answer
            except RetryLater as refusal:
                if job.abort_reason is not None:  # it was cancelled just as its server died
                    raise job.abort_reason from None
                wait = waiting_time(failures, refusal.retry_after)
                failures += 1
                if job.events or failures == MAX_FAILURES or time.monotonic() + wait > end:
                    raise
            await asyncio.sleep(wait)
            self._tasks.begin_run(job)


def waiting_time(failures: int, retry_after: float) -> float:
    """Seconds to wait after this number of failures; not the same for all that failed together."""
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**failures)
    return max(retry_after, longest * random.uniform(0.5, 1.0))
