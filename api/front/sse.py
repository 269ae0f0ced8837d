"""Server-sent events from a job: events that are ready together go in one write; pings end a silence.

A ping is two empty lines, which are no event. A comment would do as well, but many clients split a stream at
empty lines themselves, and take what is between them for data.

WHATWG HTML, section 9.2 "Server-sent events", gives the format.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.config import Settings
from api.errors import Cancelled
from api.front.calls import CallerLeft, watching
from api.front.problems import render_json
from api.middle.job import Event, Job

PING = b"\n\n"
WRITE_BYTES = 256 * 1024  # of events that were ready together; more goes into the next write
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def sse(data: Any, event: str | None = None) -> bytes:
    """One event. Compact JSON has no line breaks, so that it is one `data` line."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {render_json(data)}\n\n".encode()


class SlowReader(Cancelled):
    """The caller left too much of its stream unread."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the stream was read too slowly: more than {limit} bytes of it waited, the limit")


class StreamFormat(Protocol):
    """How the events of a job are written."""

    def piece(self, event: Event) -> bytes:
        """One event before the outcome."""

    def end(self, job: Job) -> bytes:
        """What follows when the job has its outcome."""


class JobStream(Response):
    """Streams a job until its outcome.

    `owned`: the job is this caller's alone. It ends when the caller leaves, or leaves too much unread.
    Any other job keeps its events, since several callers may follow it, each from the first event on.
    """

    media_type = "text/event-stream"

    def __init__(self, job: Job, form: StreamFormat, settings: Settings, *, owned: bool) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._job = job
        self._form = form
        self._ping_seconds = settings.stream_ping_seconds
        self._buffer_bytes = settings.stream_buffer_bytes
        self._owned = owned
        self._left = False
        self._waiting: deque[bytes] = deque()  # events, formatted
        self._size = 0  # bytes of those

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with watching(receive, self._leave):
            await self._write(send)

    def _leave(self) -> None:
        self._left = True  # the next event or ping ends the writing
        if self._owned:
            self._job.abort(CallerLeft())

    async def _write(self, send: Send) -> None:
        if self._owned:
            self._job.hand_over(self._take)
        position = 0
        while not self._left:
            while position < len(self._job.events) and self._size < WRITE_BYTES:
                self._add(self._job.events[position])
                position += 1
            if self._waiting:
                await _send(send, self._next())
            elif self._job.outcome is not None:
                break
            elif not await self._job.changed(self._ping_seconds):
                await _send(send, PING)
        await _send(send, self._form.end(self._job), last=True)

    def _take(self, event: Event) -> None:
        """An event of an owned job, perhaps while a write is under way."""
        if self._job.abort_reason is not None:
            return
        self._add(event)
        if self._size > self._buffer_bytes and len(self._waiting) > 1:  # a single event is never too much
            self._waiting.clear()
            self._size = 0
            self._job.abort(SlowReader(self._buffer_bytes))

    def _add(self, event: Event) -> None:
        self._waiting.append(self._form.piece(event))
        self._size += len(self._waiting[-1])

    def _next(self) -> bytes:
        """Whole events, for one write."""
        taken: list[bytes] = []
        size = 0
        while self._waiting and size < WRITE_BYTES:
            taken.append(self._waiting.popleft())
            size += len(taken[-1])
        self._size -= size
        return b"".join(taken)


async def _send(send: Send, body: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not last})


async def first_event(request: Request, job: Job) -> None:
    """Wait until the job has something to stream; an error before that is raised, to get its own status."""
    async with watching(request.receive, lambda: job.abort(CallerLeft())):
        if not await job.after(0):
            await job.answer()
