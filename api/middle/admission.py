"""Admission: how many synchronous tasks may be in flight, and how many asynchronous ones may wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from api.caller import Caller
from api.errors import Overloaded, RateLimited, Unavailable
from api.middle.allowances import Allowances
from api.middle.handlers.base import Lane
from api.middle.metrics import Metrics
from api.middle.queue import JobQueue
from runtime.drain_rate import DrainRate

STOPPING_RETRY_SECONDS = 5.0
ROOM_SHARE = 10  # a refused caller comes back when about this fraction (1 / 10) of a limit is free again


class Admission:
    """Belongs to one event loop."""

    def __init__(
        self, queues: Mapping[Lane, JobQueue], metrics: Metrics, *, max_in_flight: int, max_queued: int
    ) -> None:
        self.closed = False
        self.allowances = Allowances()
        self._queues = queues
        self._max_in_flight = max_in_flight
        self._max_queued = max_queued
        self._in_flight = 0  # synchronous tasks
        self._ended = DrainRate()
        self._arriving: Counter[str] = (
            Counter()
        )  # asynchronous tasks that are being recorded, by fairness key
        metrics.queued.set_function(lambda: self.num_queued)

    @property
    def num_queued(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def room(self) -> int:
        """How many more tasks may wait."""
        return max(0, self._max_queued - self.num_queued - self._arriving.total())

    def close(self) -> None:
        """Admit nothing more."""
        self.closed = True

    def take_permit(self, caller: Caller, tokens: int) -> None:
        """For a synchronous task; `return_permit` when it is over.

        `tokens` are those that it may need. Raises Overloaded, RateLimited, Unavailable.
        """
        self._check_open()
        if self._in_flight >= self._max_in_flight:
            raise Overloaded(
                f"{self._in_flight} tasks are in flight, which is the limit",
                self._ended.seconds_for(self._max_in_flight / ROOM_SHARE),
                reason="in-flight",
            )
        self.allowances.begin(caller)
        try:
            self.allowances.take(caller, tokens)
        except RateLimited:
            self.allowances.end(caller)
            raise
        self._in_flight += 1

    def return_permit(self, caller: Caller) -> None:
        self._in_flight -= 1
        self.allowances.end(caller)
        self._ended.note()

    @contextmanager
    def arriving(
        self, lane: Lane, caller: Caller, tokens: int, deadline_ms: int | None = None
    ) -> Iterator[None]:
        """Around the recording of an asynchronous task, which then waits.

        Raises Overloaded, RateLimited, Unavailable.
        """
        self._check_open()
        self._check_room(lane, caller)
        self._check_deadline(lane, caller, deadline_ms)
        self.allowances.take(caller, tokens)
        key = caller.fairness_key
        self._arriving[key] += 1
        try:
            yield
        except BaseException:
            self.allowances.give_back(caller, tokens)
            raise
        finally:
            self._arriving[key] -= 1
            if not self._arriving[key]:
                del self._arriving[key]

    def _check_open(self) -> None:
        if self.closed:
            raise Unavailable("the server is stopping", STOPPING_RETRY_SECONDS)

    def _check_deadline(self, lane: Lane, caller: Caller, deadline_ms: int | None) -> None:
        """Refuse a task whose turn would come after its deadline, at the measured speed of the queue."""
        wait = self._queues[lane].seconds_until_turn(caller.fairness_key)
        if deadline_ms is None or wait is None or wait <= deadline_ms / 1000:
            return
        raise Overloaded(
            f"its turn would come in about {wait:.1f} s, after its deadline of {deadline_ms} ms",
            wait - deadline_ms / 1000,
            reason="deadline",
        )

    def _check_room(self, lane: Lane, caller: Caller) -> None:
        key, limit = caller.fairness_key, caller.limits.max_queued
        total = self.num_queued + self._arriving.total()
        own = self._arriving[key] + sum(queue.num_waiting(key) for queue in self._queues.values())
        if total >= self._max_queued:
            reason, detail = "queue", f"{total} tasks are waiting, which is the limit"
            room = self._max_queued / ROOM_SHARE
        elif limit is not None and own >= limit:
            room = limit / ROOM_SHARE * self._queues[lane].num_callers
            reason = "queue-of-caller"
            detail = f"{own} of your tasks are waiting, which is the limit for one caller"
        else:
            return
        raise Overloaded(detail, self._queues[lane].drained.seconds_for(room), reason=reason)
