"""A task under way: its record, what it has emitted so far, and its one outcome.

queued --begin--> running --close--> done | failed | cancelled | expired
   \\_______________________close______^
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from pydantic import BaseModel

from api.back.store.records import TaskRecord, TaskState, now
from api.errors import ApiError
from api.middle.schemas.base import ModelParameters, TaskParameters
from runtime.contract import MAX_CALLER_LENGTH


@dataclass(frozen=True, slots=True)
class Event:
    """Something a task reports on its way: `output` (part of the answer) or `progress`."""

    name: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    state: TaskState
    answer: BaseModel | None = None
    error: ApiError | None = None


@dataclass(eq=False)
class Job:
    """Belongs to one event loop. `close` is the Task Manager's to call, and takes effect once."""

    record: TaskRecord
    parameters: TaskParameters
    shared_as: str = ""  # whom the engine's fairness counts it to; empty: the record's caller
    deadline: float | None = None  # time.monotonic() seconds
    arrived: float = field(default_factory=time.perf_counter)
    events: list[Event] = field(default_factory=list)
    outcome: Outcome | None = None
    runner: asyncio.Task[BaseModel] | None = None
    abort_reason: ApiError | None = None
    _waiters: set[asyncio.Future[bool]] = field(default_factory=set)

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def account(self) -> str:
        """Under which name the task shares a model with others."""
        return (self.shared_as or self.record.caller)[:MAX_CALLER_LENGTH]

    @property
    def priority(self) -> int:
        return self.parameters.priority if isinstance(self.parameters, ModelParameters) else 0

    def begin(self) -> None:
        self.record = dataclasses.replace(self.record, state=TaskState.RUNNING, started=now())

    def emit(self, name: str, data: dict[str, Any]) -> None:
        """Hand on a part of the answer, or progress, to whoever follows."""
        self.events.append(Event(name, data))
        self._wake()

    def abort(self, reason: ApiError) -> None:
        """Stop the work; the outcome will carry `reason`. Only the first reason counts."""
        if self.outcome is None and self.abort_reason is None:
            self.abort_reason = reason
            if self.runner is not None:
                self.runner.cancel()

    def close(self, outcome: Outcome, record: TaskRecord) -> None:
        if self.outcome is None:
            self.outcome, self.record = outcome, record
            self._wake()

    def remaining_ms(self) -> int | None:
        """Milliseconds to the deadline, at least 1; None without one."""
        if self.deadline is None:
            return None
        return max(1, int((self.deadline - time.monotonic()) * 1000))

    async def after(self, position: int, seconds: float | None = None) -> list[Event]:
        """Wait for events from `position` on; none: the outcome is there, or the time passed.

        It may be cancelled without loss.
        """
        while len(self.events) <= position and self.outcome is None:
            if not await self._change(seconds):
                break
        return self.events[position:]

    async def answer(self) -> BaseModel:
        """Wait for the outcome; returns the answer or raises the ApiError."""
        while self.outcome is None:
            await self._change()
        if self.outcome.answer is None:
            raise self.outcome.error or RuntimeError("an outcome without answer and error")
        return self.outcome.answer

    async def _change(self, seconds: float | None = None) -> bool:
        """Wait for an event or the outcome; False where the seconds passed first."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters.add(waiter)
        timer = loop.call_later(seconds, _resolve, waiter, False) if seconds is not None else None
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        for waiter in self._waiters:
            _resolve(waiter, True)


def _resolve(waiter: asyncio.Future[bool], value: bool) -> None:
    if not waiter.done():
        waiter.set_result(value)


def seconds_since(moment: datetime) -> float:
    return (datetime.now(timezone.utc) - moment).total_seconds()
