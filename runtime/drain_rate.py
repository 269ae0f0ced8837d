"""How fast a queue empties, and so when there will be room. Standard library only: the façade imports it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 30.0  # what was longer ago does not count
BUCKET_SECONDS = 1.0
LEAST_SECONDS, MOST_SECONDS = 1.0, 15.0  # of an answer
UNMEASURED_SECONDS = 5.0  # the answer where nothing has left the queue lately


class DrainRate:
    """Not thread-safe. Memory and time of a call do not grow with what is noted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: deque[tuple[float, float]] = deque()  # (when it began, what left)

    def note(self, amount: float = 1.0) -> None:
        """This amount has left the queue."""
        now = self._clock()
        if self._buckets and now - self._buckets[-1][0] < BUCKET_SECONDS:
            began, sum_so_far = self._buckets.pop()
            self._buckets.append((began, sum_so_far + amount))
        else:
            self._buckets.append((now, amount))
        self._forget(now)

    @property
    def per_second(self) -> float | None:
        """Mean amount that left; None where nothing left within the window."""
        now = self._clock()
        self._forget(now)
        if not self._buckets:
            return None
        span = max(BUCKET_SECONDS, now - self._buckets[0][0])
        return sum(amount for _, amount in self._buckets) / span

    def seconds_for(self, amount: float) -> float:
        """How long this amount takes to leave, within LEAST_SECONDS and MOST_SECONDS."""
        rate = self.per_second
        seconds = UNMEASURED_SECONDS if not rate else amount / rate
        return min(MOST_SECONDS, max(LEAST_SECONDS, seconds))

    def _forget(self, now: float) -> None:
        while self._buckets and now - self._buckets[0][0] > WINDOW_SECONDS:
            self._buckets.popleft()
