"""A task under way: its record, what it has emitted so far, and its one outcome.

queued --begin--> running --close--> done | failed | cancelled | expired
   \\_______________________close______^
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from pydantic import BaseModel

from api import tracing
from api.back.store.records import TaskRecord, TaskState, now
from api.errors import ApiError, Cancelled, DeadlineExceeded, StoreUnavailable
from api.log_context import LogContext
from api.middle.schemas.base import ModelParameters, TaskParameters
from api.tracing import Span
from runtime.messages import Usage

OPERATIONS = {"generate": "text_completion", "embed": "embeddings"}  # what OpenTelemetry calls them


@dataclass(frozen=True, slots=True)
class Event:
    """What a task reports while it runs: `output` (part of the answer) or `progress`."""

    name: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    state: TaskState
    answer: BaseModel | None = None
    error: ApiError | None = None

    @classmethod
    def failed(cls, error: ApiError) -> Outcome:
        """The outcome that an error means."""
        if isinstance(error, DeadlineExceeded):
            return cls(TaskState.EXPIRED, error=error)
        if isinstance(error, Cancelled):
            return cls(TaskState.CANCELLED, error=error)
        return cls(TaskState.FAILED, error=error)


@dataclass(eq=False)
class Job:
    """Belongs to one event loop. Only the Task Manager calls `close`, and only the first call counts."""

    record: TaskRecord
    parameters: TaskParameters
    deadline: float | None = None  # time.monotonic() seconds
    arrived: float = field(default_factory=time.perf_counter)
    events: list[Event] = field(default_factory=list)
    outcome: Outcome | None = None
    usage: Usage = field(default_factory=lambda: Usage.of(0))  # that was measured so far
    served_by: str | None = None  # the model
    runner: asyncio.Task[BaseModel] | None = None
    abort_reason: ApiError | None = None
    # Called with each event, beside the followers here, with its number.
    reporter: Callable[[int, Event], None] | None = None
    held_up: StoreUnavailable | None = None  # why its outcome, which is known, cannot be recorded yet
    log_context: LogContext = field(init=False)
    span: Span = field(init=False)
    _queue_span: Span = field(init=False)
    _request_span: Span = field(init=False)
    _taker: Callable[[Event], None] | None = None
    _waiters: set[asyncio.Future[bool]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.log_context = LogContext.for_task(self.id)
        self._request_span = tracing.current()
        self.span = self._request_span.child(f"task {self.record.type}")
        self._queue_span = self.span.child("queue")

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def caller(self) -> str:
        """The name under which fair queues count the task."""
        return self.record.caller.fairness_key

    @functools.cached_property
    def need(self) -> int:
        """What its turn costs its caller: an estimate, in tokens."""
        return self.parameters.cost

    @property
    def tokens_to_pay(self) -> int:
        """What the caller's rate is charged with: what was measured, or the estimate where that is not known.

        A task that ran and was cancelled costs its estimate: otherwise all but the last token would be free.
        """
        measured, outcome = self.usage.total_tokens, self.outcome
        if outcome is None or self.record.started is None:
            return measured
        ended_early = outcome.state in (TaskState.CANCELLED, TaskState.EXPIRED)
        if ended_early or (outcome.state is TaskState.DONE and measured == 0):
            return max(measured, self.need)
        return measured

    def count(self, model: str, usage: Usage) -> None:
        """A model did this much of the task."""
        self.served_by = model
        self.usage = Usage.total((self.usage, usage))

    @property
    def priority(self) -> int:
        return self.parameters.priority if isinstance(self.parameters, ModelParameters) else 0

    @property
    def special_tokens(self) -> bool:
        return self.parameters.special_tokens if isinstance(self.parameters, ModelParameters) else True

    def begin(self) -> None:
        """Its handler is started, for the first time or again."""
        self._queue_span.end()
        started = self.record.started or now()
        runs = self.record.runs + 1
        self.record = dataclasses.replace(self.record, state=TaskState.RUNNING, started=started, runs=runs)

    def emit(self, name: str, data: dict[str, Any]) -> None:
        """Pass a part of the answer, or progress, to all followers."""
        event = Event(name, data)
        if self.reporter is not None:
            self.reporter(len(self.events), event)
        if self._taker is None:
            self.events.append(event)
        else:
            self._taker(event)
        self._wake()

    def hand_over(self, taker: Callable[[Event], None]) -> None:
        """From now on pass every event to `taker` and keep none: a long stream is not held in memory."""
        for event in self.events:
            taker(event)
        self.events.clear()
        self._taker = taker

    def abort(self, reason: ApiError) -> None:
        """Stop the work; the outcome will carry `reason`. Only the first reason counts."""
        if self.outcome is None and self.abort_reason is None:
            self.abort_reason = reason
            if self.runner is not None:
                self.runner.cancel()

    def close(self, outcome: Outcome, record: TaskRecord) -> None:
        if self.outcome is None:
            self.outcome, self.record = outcome, record
            self._end_spans(outcome)
            self._wake()

    def _end_spans(self, outcome: Outcome) -> None:
        """With OpenTelemetry's names for generative models, on the span of the request, too."""
        values = {
            "gen_ai.operation.name": OPERATIONS.get(self.record.type, self.record.type),
            "gen_ai.response.model": self.log_context.model,
            "gen_ai.usage.input_tokens": self.usage.prompt_tokens or None,
            "gen_ai.usage.output_tokens": self.usage.completion_tokens or None,
            "lmaas.task.id": self.id,
            "lmaas.task.type": self.record.type,
            "lmaas.task.outcome": outcome.state.value,
        }
        self._request_span.set(values)
        self.span.set({**values, "lmaas.model.version": getattr(outcome.answer, "version", None)})
        self._queue_span.end()
        self.span.end(outcome.error.slug if outcome.error else None)

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
            if not await self.changed(seconds):
                break
        return self.events[position:]

    async def answer(self) -> BaseModel:
        """Wait for the outcome; returns the answer or raises the ApiError."""
        while self.outcome is None:
            await self.changed()
        if self.outcome.answer is None:
            raise self.outcome.error or RuntimeError("an outcome without answer and error")
        return self.outcome.answer

    def hold_up(self, error: StoreUnavailable) -> None:
        """Its outcome cannot be recorded at present, and is not published before."""
        self.held_up = error
        self._wake()

    async def ended(self) -> None:
        """Wait for the outcome. Raises StoreUnavailable while it cannot be recorded."""
        while self.outcome is None:
            if self.held_up is not None:
                raise copy.copy(self.held_up)
            await self.changed()

    async def changed(self, seconds: float | None = None) -> bool:
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
