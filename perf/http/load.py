"""The two loops that make a load: closed, with so many requests under way; open, by a schedule."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perf.http.alarm import Alarm
from perf.http.schedule import Extent
from perf.http.wire import Connection, Exchange, Failure, Origin, connect

REFUSED_SECONDS = 0.1


@dataclass(slots=True)
class Run:
    """What a load was: its window, in seconds of `time.perf_counter`, its exchanges and its own cost."""

    begin: float
    end: float
    exchanges: list[Exchange]
    cpu_seconds: float  # of this process, from the first request to the last answer
    seconds: float  # as long as that took


class Load(ABC):
    """Sends requests over as many connections as it takes. Subclasses say when."""

    def __init__(self, origin: Origin, requests: Iterator[bytes], extent: Extent, timeout: float) -> None:
        self.in_flight = 0
        self.finished = 0
        self.failed = 0
        self._origin = origin
        self._requests = requests
        self._extent = extent
        self._timeout = timeout
        self._exchanges: list[Exchange] = []
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._begin = 0.0  # of the window

    async def run(self) -> Run:
        """From the warm-up to the last answer."""
        _allow_many_connections()
        gc.collect()
        gc.disable()  # a collection would hold up every stream at once
        cpu, start = time.process_time(), time.perf_counter()
        self._begin = start + self._extent.warmup
        try:
            await self._drive(start)
        finally:
            gc.enable()
            for connection in self._open:
                connection.close()
        spent, seconds = time.process_time() - cpu, time.perf_counter() - start
        end = self._begin + self._extent.seconds
        if self._extent.requests is not None:
            end = max((exchange.ended for exchange in self._exchanges), default=self._begin)
        return Run(self._begin, end, self._exchanges, spent, seconds)

    @abstractmethod
    async def _drive(self, start: float) -> None:
        """Send everything; returns when all of it has been answered."""

    @abstractmethod
    def _on_end(self, exchange: Exchange) -> None:
        """An exchange has ended."""

    def _send(self, intended: float) -> None:
        exchange = Exchange(intended)
        self._exchanges.append(exchange)
        self.in_flight += 1
        while self._idle:  # the one used last is the least likely to have been closed by the server
            connection = self._idle.pop()
            if connection.usable:
                connection.start(exchange, next(self._requests), self._timeout)
                return
            self._open.discard(connection)
        task = asyncio.get_running_loop().create_task(self._connect_and_send(exchange))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect_and_send(self, exchange: Exchange) -> None:
        connection = await connect(self._origin, self._timeout, self._ended)
        if connection is None:
            exchange.sent = exchange.ended = time.perf_counter()
            exchange.failure = Failure.CANNOT_CONNECT
            self._close(exchange)
            return
        self._open.add(connection)
        connection.start(exchange, next(self._requests), self._timeout)

    def _ended(self, connection: Connection, exchange: Exchange) -> None:
        if connection.usable:
            self._idle.append(connection)
        else:
            self._open.discard(connection)
        self._close(exchange)

    def _close(self, exchange: Exchange) -> None:
        self.in_flight -= 1
        self.finished += 1
        self.failed += not exchange.succeeded
        self._on_end(exchange)


class ClosedLoop(Load):
    """`concurrency` callers, each of whom asks again as soon as it has its answer.

    They begin one by one over the first half of the warm-up: answers of one length would else stay in step,
    and every first token would be that of a burst. One who was refused waits a little first: else a server
    would be measured by how fast it refuses.
    """

    def __init__(
        self,
        origin: Origin,
        requests: Iterator[bytes],
        extent: Extent,
        timeout: float,
        concurrency: int,
    ) -> None:
        super().__init__(origin, requests, extent, timeout)
        self._concurrency = concurrency
        self._callers = 0
        self._measured = 0
        self._all_answered = asyncio.Event()

    async def _drive(self, start: float) -> None:
        self._callers = self._concurrency
        for caller in range(self._concurrency):
            delay = self._extent.stagger * caller / self._concurrency
            asyncio.get_running_loop().call_later(delay, self._ask_later)
        await self._all_answered.wait()

    def _on_end(self, exchange: Exchange) -> None:
        if exchange.succeeded:
            self._ask_again(exchange.ended)
        else:
            asyncio.get_running_loop().call_later(REFUSED_SECONDS, self._ask_later)

    def _ask_later(self) -> None:
        self._ask_again(time.perf_counter())

    def _ask_again(self, now: float) -> None:
        if self._has_more(now):
            self._measured += now >= self._begin
            self._send(now)
            return
        self._callers -= 1
        if not self._callers:
            self._all_answered.set()

    def _has_more(self, now: float) -> bool:
        if self._extent.requests is None:
            return now < self._begin + self._extent.seconds
        return self._measured < self._extent.requests


class OpenLoop(Load):
    """Requests at `times` (seconds after the start), however many are still under way."""

    def __init__(
        self,
        origin: Origin,
        requests: Iterator[bytes],
        extent: Extent,
        timeout: float,
        times: Sequence[float],
    ) -> None:
        super().__init__(origin, requests, extent, timeout)
        self._times = times
        self._due: deque[float] = deque()
        self._all_answered = asyncio.Event()

    async def _drive(self, start: float) -> None:
        if not self._times:
            return
        self._due.extend(start + time for time in self._times)
        self._alarm = Alarm(self._send_due)
        try:
            self._alarm.set(self._due[0])
            await self._all_answered.wait()
        finally:
            self._alarm.close()

    def _send_due(self) -> None:
        now = time.perf_counter()
        while self._due and self._due[0] <= now:
            self._send(self._due.popleft())
        if self._due:
            self._alarm.set(self._due[0])

    def _on_end(self, exchange: Exchange) -> None:
        if not self._due and not self.in_flight:
            self._all_answered.set()


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # what there is must do
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
