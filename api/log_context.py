"""What the present work belongs to: its request, its task and the model. Log lines name them."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class LogContext:
    """One object for a request and the task that it starts, so that each learns what the other finds out."""

    request_id: str | None = None
    task_id: str | None = None
    model: str | None = None
    trace_id: str | None = None  # where the request is traced

    @staticmethod
    def current() -> LogContext:
        """That of the running asyncio task; an empty one where there is none."""
        return _current.get() or LogContext()

    def enter(self) -> None:
        """Make it the one of the running asyncio task, and of those that it creates."""
        _current.set(self)

    @staticmethod
    def for_task(task_id: str) -> LogContext:
        """For a task that the present work starts: the present one, unless it has a task already."""
        present = _current.get()
        if present is None or present.task_id is not None:
            if present is None:
                return LogContext(task_id=task_id)
            return LogContext(present.request_id, task_id, trace_id=present.trace_id)
        present.task_id = task_id
        return present


_current: ContextVar[LogContext | None] = ContextVar("log_context", default=None)
