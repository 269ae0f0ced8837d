"""A timeout for another process, on a machine that may be slow.

A plain timeout blames a process for a slow machine, and for a time in which this process did not run itself.
This one counts only the seconds in which the other process is idle, measured by its CPU time, and none in
which this process's own event loop was late. A limit on the whole time stands behind it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
AtWork = Callable[[], Awaitable[bool]]

TICK_SECONDS = 0.5
LEAST_TICKS = 4  # of a short timeout: each lets the event loop read what has arrived
LATE = 1.5  # a tick that took longer than this many times its length was late
BUSY_SHARE = 0.03  # of a core, which a process at work uses; an idle model server uses about 0.01


class IdleTimeout:
    """Expires once a process was idle for `idle_limit` seconds, or took `limit` seconds in all."""

    def __init__(self, idle_limit: float, limit: float) -> None:
        self._idle_limit = idle_limit
        self._limit = limit
        self._idle = 0.0
        self._waited = 0.0
        self.tick = min(TICK_SECONDS, idle_limit / LEAST_TICKS)

    def count(self, elapsed: float, at_work: bool) -> None:
        """Add one tick, which took `elapsed` seconds."""
        self._waited += self.tick
        if at_work:
            self._idle = 0.0
        elif elapsed <= LATE * self.tick:  # else the answer may be here, unread
            self._idle += self.tick

    @property
    def expired(self) -> bool:
        return self.reason is not None

    @property
    def reason(self) -> str | None:
        """Why it has expired; None while it has not."""
        if self._idle >= self._idle_limit:
            return f"it did nothing for {self._idle_limit:g} s"
        if self._waited >= self._limit:
            return f"it was not done within {self._limit:g} s"
        return None


async def _idle() -> bool:
    return False


async def wait_for(work: Coroutine[Any, Any, T], timeout: IdleTimeout, at_work: AtWork = _idle) -> T:
    """The result of `work`. Raises TimeoutError with the reason once `timeout` has expired.

    `work` is cancelled then. `at_work` is asked once a tick.
    """
    task = asyncio.create_task(work)
    try:
        while not timeout.expired:
            began = time.monotonic()
            done, _ = await asyncio.wait({task}, timeout=timeout.tick)
            if done:
                return task.result()
            timeout.count(time.monotonic() - began, await at_work())
        raise asyncio.TimeoutError(timeout.reason)
    finally:
        task.cancel()
        await asyncio.wait({task})


class Activity:
    """Whether any of some processes worked since it was last asked."""

    def __init__(self, cpu_seconds: Callable[[], Mapping[int, float]]) -> None:
        """`cpu_seconds` blocks, and gives the CPU time of each process by its id."""
        self._cpu_seconds = cpu_seconds
        self._last: tuple[float, Mapping[int, float]] | None = None

    async def seen(self) -> bool:
        """False at the first time: there is nothing to compare with."""
        now, used = time.monotonic(), await asyncio.to_thread(self._cpu_seconds)
        last, self._last = self._last, (now, used)
        if last is None:
            return False
        moment, before = last
        least = BUSY_SHARE * (now - moment)
        return any(pid not in before or spent - before[pid] >= least for pid, spent in used.items())
