"""The gaps that interactive work leaves in the engine's slots: batches run there, and give way.

`slots` are those of one language model on one server. All requests of this façade's tasks count against them,
whatever model they ask, so that batches rather run too little than make a task wait for its slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel

from api.middle.job import Job
from api.middle.metrics import Metrics
from api.middle.queue import JobQueue
from api.middle.schemas.generate import GenerateParameters

Work = Callable[[], Coroutine[Any, Any, BaseModel]]
Runner = asyncio.Task[BaseModel]


class Gaps:
    """Runs the jobs of batches: by turns of their callers, at most `most` sequences at once.

    A job starts while slots for its sequences are free. When tasks need more slots than batches leave, the
    jobs that began last are cancelled at once, and begin anew when there is a gap. Belongs to one event loop.
    """

    def __init__(self, slots: int, most: int, metrics: Metrics) -> None:
        self._slots = slots
        self._most = most
        self._taken = 0  # sequences of tasks
        self._queue = JobQueue()
        self._waiting: dict[Job, tuple[Work, asyncio.Future[Runner]]] = {}
        self._running: dict[Job, Runner] = {}  # the one that began first comes first
        self._metrics = metrics

    @property
    def batch_sequences(self) -> int:
        """Under way."""
        return sum(map(num_sequences, self._running))

    @contextmanager
    def taken(self, sequences: int) -> Iterator[None]:
        """Around a request of a task, which never waits here."""
        self._taken += sequences
        self._give_way()
        try:
            yield
        finally:
            self._taken -= sequences
            self._start()

    async def run(self, job: Job, work: Work) -> BaseModel:
        """The answer of `work`, which is begun in a gap, and begun anew where it had to give way.

        Raises what `work` raises.
        """
        while True:
            runner = await self._turn(job, work)
            try:
                await asyncio.wait({runner})
            except asyncio.CancelledError:
                runner.cancel()
                await asyncio.wait({runner})
                raise
            finally:
                self._end(job)
            if not runner.cancelled():
                return runner.result()

    async def _turn(self, job: Job, work: Work) -> Runner:
        turn: asyncio.Future[Runner] = asyncio.get_running_loop().create_future()
        self._waiting[job] = (work, turn)
        self._queue.put(job)
        self._start()
        try:
            return await turn
        except asyncio.CancelledError:
            if job in self._waiting:
                del self._waiting[job]
                self._queue.remove(job)
            else:  # it began just now
                turn.result().cancel()
                self._end(job)
            self._start()
            raise

    def _start(self) -> None:
        """Begin what fits; nothing overtakes the job whose turn it is."""
        while (job := self._queue.peek()) is not None and self._fits(job):
            self._queue.pop()
            work, turn = self._waiting.pop(job)
            self._running[job] = asyncio.ensure_future(work())
            turn.set_result(self._running[job])

    def _fits(self, job: Job) -> bool:
        """A job that is larger than the bound runs alone."""
        under_way, wanted = self.batch_sequences, num_sequences(job)
        if under_way == 0:
            return self._taken + wanted <= self._slots or self._taken == 0
        return under_way + wanted <= self._most and self._taken + under_way + wanted <= self._slots

    def _give_way(self) -> None:
        while self._running and self._taken + self.batch_sequences > self._slots:
            _, runner = self._running.popitem()
            runner.cancel()
            self._metrics.batch_gave_way.inc()

    def _end(self, job: Job) -> None:
        self._running.pop(job, None)
        self._queue.settle(job)
        self._start()


def num_sequences(job: Job) -> int:
    """The slots that it takes: its handler sends one request at a time."""
    return job.parameters.num_sequences if isinstance(job.parameters, GenerateParameters) else 1
