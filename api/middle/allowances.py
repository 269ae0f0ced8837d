"""What a caller with limits has left: requests and tokens of a minute, and synchronous tasks at once.

Each rate is a token bucket: it holds what is allowed in a minute, and fills evenly. The tokens of a task are
estimated when it comes, and corrected when it has ended. The buckets are this façade's: where several share a
database, each allows the rate.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from api.caller import Caller
from api.errors import RateLimited

MINUTE = 60.0
MAX_CALLERS = 4096  # whose buckets are kept; a new bucket is full
IN_FLIGHT_RETRY_SECONDS = 1.0


@dataclass(slots=True)
class Bucket:
    """Times are in seconds of one clock. A debt, below zero, is paid before anything is allowed."""

    capacity: float
    level: float
    filled: float  # when `level` was right

    def fill(self, moment: float) -> None:
        self.level = min(self.capacity, self.level + (moment - self.filled) * self.capacity / MINUTE)
        self.filled = moment

    def seconds_until(self, level: float) -> float:
        return max(0.0, (min(level, self.capacity) - self.level) * MINUTE / self.capacity)


@dataclass(frozen=True, slots=True)
class Allowance:
    """One rate as its caller is informed of it."""

    kind: str  # requests or tokens
    limit: int
    remaining: int
    reset_seconds: float  # until all of it is there again


class Allowances:
    """Belongs to one event loop. Callers without limits leave nothing here."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], Bucket] = OrderedDict()
        self._in_flight: Counter[str] = Counter()

    def take(self, caller: Caller, tokens: int) -> None:
        """A request, and its tokens by estimate. Raises RateLimited."""
        found = list(self._of(caller))
        for kind, bucket in found:
            wanted = 1.0 if kind == "requests" else float(tokens)
            wait = bucket.seconds_until(wanted)
            if wait > 0:
                raise RateLimited(
                    f"the API key may use {bucket.capacity:.0f} {kind} a minute, of which"
                    f" {max(0, int(bucket.level))} are left; this needs {wanted:.0f}",
                    wait,
                )
        for kind, bucket in found:
            bucket.level -= 1.0 if kind == "requests" else tokens

    def take_spare(self, caller: Caller, tokens: int) -> None:
        """Tokens of a line of a batch, which leaves half of a minute's to other requests.

        Raises RateLimited.
        """
        for kind, bucket in self._of(caller):
            if kind != "tokens":
                continue
            wait = bucket.seconds_until(bucket.capacity / 2 + tokens)
            if wait > 0:
                raise RateLimited("half of the tokens of a minute are left to other requests", wait)
            bucket.level -= tokens

    def give_back(self, caller: Caller, tokens: int) -> None:
        """Tokens that were taken and not used; below zero: that were used and not taken."""
        for kind, bucket in self._of(caller):
            if kind == "tokens":
                bucket.level = min(bucket.capacity, bucket.level + tokens)

    def begin(self, caller: Caller) -> None:
        """A synchronous task, until `end`. Raises RateLimited."""
        limit = caller.limits.max_in_flight
        if limit is None:
            return
        if self._in_flight[caller.key] >= limit:
            raise RateLimited(
                f"{limit} tasks of the API key are in flight, which is its limit", IN_FLIGHT_RETRY_SECONDS
            )
        self._in_flight[caller.key] += 1

    def end(self, caller: Caller) -> None:
        if caller.limits.max_in_flight is not None:
            self._in_flight[caller.key] -= 1
            if self._in_flight[caller.key] <= 0:
                del self._in_flight[caller.key]

    def left(self, caller: Caller) -> list[Allowance]:
        """For each rate that is limited."""
        return [
            Allowance(
                kind,
                int(bucket.capacity),
                max(0, int(bucket.level)),
                bucket.seconds_until(bucket.capacity),
            )
            for kind, bucket in self._of(caller)
        ]

    def _of(self, caller: Caller) -> Iterator[tuple[str, Bucket]]:
        """The caller's buckets, filled until now."""
        limits, moment = caller.limits, self._clock()
        for kind, most in (("requests", limits.requests_per_minute), ("tokens", limits.tokens_per_minute)):
            if most is None:
                continue
            bucket = self._buckets.get((caller.key, kind))
            if bucket is None:
                bucket = self._buckets[caller.key, kind] = Bucket(most, most, moment)
                if len(self._buckets) > MAX_CALLERS:
                    self._buckets.popitem(last=False)
            self._buckets.move_to_end((caller.key, kind))
            bucket.fill(moment)
            yield kind, bucket
