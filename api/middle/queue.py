"""Asynchronous tasks that wait for a worker, in the order in which the engine serves requests."""

from __future__ import annotations

import asyncio
from collections import Counter

from api.middle.job import Job
from runtime.drain_rate import DrainRate
from runtime.fair_queue import FairQueue


class JobQueue:
    """The queue of one lane: by priority, then by turns of the callers. Belongs to one event loop."""

    def __init__(self) -> None:
        self._fair: FairQueue[Job] = FairQueue()
        self._waiting: Counter[str] = Counter()  # jobs by caller
        self._filled = asyncio.Event()
        self.drained = DrainRate()

    def __len__(self) -> int:
        return len(self._fair)

    @property
    def num_callers(self) -> int:
        """Callers with waiting jobs."""
        return len(self._waiting)

    def num_waiting(self, caller: str) -> int:
        """Jobs of one caller."""
        return self._waiting[caller]

    def seconds_until_turn(self, caller: str) -> float | None:
        """About how long a job of the caller would wait, at the queue's measured speed; None: not measured.

        Callers take turns, so that not all jobs that wait come before it.
        """
        rate = self.drained.per_second
        callers = self.num_callers + (caller not in self._waiting)
        before = min(len(self), (self._waiting[caller] + 1) * callers - 1)
        return before / rate if rate else None

    def put(self, job: Job) -> None:
        self._fair.add(job)
        self._waiting[job.caller] += 1
        self._filled.set()

    def remove(self, job: Job) -> None:
        """Take out a job that waits, before its turn."""
        self._fair.remove(job)
        self._left(job)

    async def get(self) -> Job:
        """Wait for a job, and take the one whose turn it is. `settle` it when it is over."""
        while not len(self._fair):
            self._filled.clear()
            await self._filled.wait()
        return self.pop()

    def peek(self) -> Job | None:
        """The job whose turn it is."""
        return self._fair.peek()

    def pop(self) -> Job:
        """Take the job whose turn it is. `settle` it when it is over."""
        job = self._fair.pop()
        self.drained.note()
        self._left(job)
        return job

    def settle(self, job: Job) -> None:
        """A job from `get` is over."""
        self._fair.settle(job, job.need)

    def _left(self, job: Job) -> None:
        self._waiting[job.caller] -= 1
        if not self._waiting[job.caller]:
            del self._waiting[job.caller]
