"""The Job Dispatcher: hands tasks to their handlers; asynchronous ones wait in their lane's queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from api.errors import RetryLater
from api.middle.handlers.base import Handler, Lane
from api.middle.job import Job
from api.middle.router import Router
from api.middle.tasks import TaskManager

PATIENCE_SECONDS = 60.0  # longer than a model server takes to heal, or to load at a start


class Dispatcher:
    """`workers` says how many tasks of a lane run at once."""

    def __init__(self, tasks: TaskManager, router: Router, workers: Mapping[Lane, int]) -> None:
        self._tasks = tasks
        self._router = router
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

    def run(self, job: Job) -> asyncio.Task[BaseModel]:
        """Start the job's handler. The outcome is recorded when the runner ends, even if it never began."""
        self._tasks.begin(job)
        handler = self._router.handler(job.record.type)
        work = _answer(handler, job) if job.record.asynchronous else handler.run(job.parameters, job)
        runner = asyncio.create_task(work)
        job.runner = runner
        runner.add_done_callback(lambda ended: self._tasks.settle(job, ended))
        return runner

    async def _work(self, lane: Lane) -> None:
        queue = self._tasks.queues[lane]
        while True:
            job = await queue.get()
            if job.outcome is None:
                await asyncio.wait({self.run(job)})


async def _answer(handler: Handler[Any, Any], job: Job) -> BaseModel:
    """Try again while a model server is away or full: who queued a task is not there to do it.

    What has told something already is not begun anew, or its followers would read it twice.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            answer: BaseModel = await handler.run(job.parameters, job)
            return answer
        except RetryLater as refusal:  # noqa: PERF203 - trying again is the point
            if job.abort_reason is not None:  # it was cancelled just as its server died
                raise job.abort_reason from None
            if job.events or time.monotonic() + refusal.retry_after > end:
                raise
            await asyncio.sleep(refusal.retry_after)
