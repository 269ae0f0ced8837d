"""The two loops that make a load: closed, with a number of requests under way; open, by a schedule.

All times of an open loop are fixed in advance. This is a load generator of our own because the intended time
of each request must be exact to some tens of microseconds and the client must cost little: it shares the
processor with the server that is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import random
import resource
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from perf.http.wire import Connection, Exchange, Failure, Origin, connect

REFUSED_SECONDS = 0.1  # that a caller of a closed loop waits after a refusal

_TFD_TIMER_ABSTIME = 1
_EXPIRATIONS = 8  # bytes of the counter that a read returns


class Arrivals(str, Enum):
    """How the times between arrivals are drawn."""

    POISSON = "poisson"  # exponential gaps: independent callers
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Extent:
    """Seconds of warm-up, then the window: a number of `requests`, or `seconds` where that is None."""

    warmup: float
    seconds: float
    requests: int | None = None

    def begin(self, caller: int, callers: int) -> float:
        """Seconds after the start at which one of the callers of a closed loop begins."""
        return self.warmup / 2 * caller / callers


def intended_times(rate: float, arrivals: Arrivals, seed: str, extent: Extent) -> list[float]:
    """Seconds after the start of every request at `rate` per second, warm-up included, in order."""
    times: list[float] = []
    measured = 0
    for at in _endless(rate, arrivals, random.Random(seed)):
        if at >= extent.warmup:
            if extent.requests is None and at >= extent.warmup + extent.seconds:
                break
            if measured == extent.requests:
                break
            measured += 1
        times.append(at)
    return times


def _endless(rate: float, arrivals: Arrivals, draw: random.Random) -> Iterator[float]:
    at, number = 0.0, 0
    while True:
        # Constant times are not summed up: a sum drifts.
        at = at + draw.expovariate(rate) if arrivals is Arrivals.POISSON else number / rate
        number += 1
        yield at


@dataclass(slots=True)
class Run:
    """What a load did: its window (seconds of `time.perf_counter`), its exchanges and its CPU time."""

    begin: float
    end: float
    exchanges: list[Exchange]
    cpu_seconds: float  # of this process, from the first request to the last answer
    seconds: float  # as long as that took


class Load(ABC):
    """Sends requests over as many connections as needed. Subclasses decide when."""

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
        self._all_answered = asyncio.Event()

    async def run(self) -> Run:
        """From the warm-up to the last answer."""
        _allow_many_connections()
        gc.collect()
        gc.disable()  # a collection would delay every stream at once
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
    """`concurrency` callers; each sends its next request as soon as it has its answer.

    They begin one by one over the first half of the warm-up. If all began together, answers of one length
    would stay in step, and every first token would be one of a burst. A caller that was refused waits a
    little: otherwise the load would measure how fast a server refuses.
    """

    def __init__(
        self, origin: Origin, requests: Iterator[bytes], extent: Extent, timeout: float, concurrency: int
    ) -> None:
        super().__init__(origin, requests, extent, timeout)
        self._concurrency = concurrency
        self._callers = 0
        self._measured = 0

    async def _drive(self, start: float) -> None:
        self._callers = self._concurrency
        for caller in range(self._concurrency):
            delay = self._extent.begin(caller, self._concurrency)
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
        with contextlib.suppress(ValueError, OSError):  # then the limit stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """A timer that is exact to some tens of microseconds, where event loops wait in whole milliseconds.

    It calls `ring` once at the time that was set (in seconds of `time.perf_counter`). Linux's timerfd(2) is a
    file that becomes readable at that time, and event loops notice files at once.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, self._readable)

    def set(self, when: float) -> None:
        """A time that has passed rings at once."""
        nanoseconds = max(1, int(when * 1e9))  # zero would disarm it
        setting = _Setting(_Timespec(0, 0), _Timespec(*divmod(nanoseconds, 1_000_000_000)))
        if self._libc.timerfd_settime(self._file, _TFD_TIMER_ABSTIME, ctypes.byref(setting), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def _readable(self) -> None:
        os.read(self._file, _EXPIRATIONS)
        self._ring()
