"""Server-sent events from a job: what is ready travels in one write, silence is broken by pings.

WHATWG HTML, section 9.2 "Server-sent events", gives the format.
"""

from __future__ import annotations

from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.front.calls import CallerLeft, watching
from api.front.problems import render_json
from api.middle.job import Event, Job

PING = b": ping\n\n"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def sse(data: Any, event: str | None = None) -> bytes:
    """One event; JSON has no line breaks of its own, so it is one `data` line."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {render_json(data)}\n\n".encode()


class StreamFormat(Protocol):
    """How a job looks as a stream."""

    def piece(self, event: Event) -> bytes:
        """One event on the way."""

    def end(self, job: Job) -> bytes:
        """What follows when the job has its outcome."""


class JobStream(Response):
    """Streams a job until its outcome. `owned`: the job ends when the caller leaves."""

    media_type = "text/event-stream"

    def __init__(self, job: Job, form: StreamFormat, *, ping_seconds: float, owned: bool) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._job = job
        self._form = form
        self._ping_seconds = ping_seconds
        self._owned = owned
        self._left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with watching(receive, self._leave):
            await self._write(send)

    def _leave(self) -> None:
        self._left = True  # the next event or ping ends the writing
        if self._owned:
            self._job.abort(CallerLeft())

    async def _write(self, send: Send) -> None:
        position = 0
        while not self._left and (self._job.outcome is None or position < len(self._job.events)):
            events = await self._job.after(position, self._ping_seconds)
            position += len(events)
            if events:
                await _send(send, b"".join(self._form.piece(event) for event in events))
            elif self._job.outcome is None:
                await _send(send, PING)
        await _send(send, self._form.end(self._job), last=True)


async def _send(send: Send, body: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not last})


async def first_event(request: Request, job: Job) -> None:
    """Wait until the job has something to stream; an error before that is raised, to get its own status."""
    async with watching(request.receive, lambda: job.abort(CallerLeft())):
        if not await job.after(0):
            await job.answer()
