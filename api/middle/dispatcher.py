"""The Job Dispatcher: hands tasks to their handlers; asynchronous ones wait in the queue."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pydantic import BaseModel

from api.errors import RetryLater
from api.middle.handlers.base import Handler
from api.middle.job import Job
from api.middle.router import Router
from api.middle.tasks import TaskManager

PATIENCE_SECONDS = 60.0  # longer than a model server takes to heal, or to load at a start


class Dispatcher:
    def __init__(self, tasks: TaskManager, router: Router, workers: int) -> None:
        self._tasks = tasks
        self._router = router
        self._num_workers = workers
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to take tasks from the queue."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._num_workers)]

    async def stop(self) -> None:
        """Take no more tasks from the queue; those that run go on."""
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

    async def _work(self) -> None:
        while True:
            job = await self._tasks.queue.get()
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
            if job.events or time.monotonic() + refusal.retry_after > end:
                raise
            await asyncio.sleep(refusal.retry_after)
