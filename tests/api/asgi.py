"""One request against an ASGI application, message by message: for streams, disconnects, chunked bodies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop go on until the condition holds; the test's own time limit bounds it."""
    while not condition():  # noqa: ASYNC110 - the code under test has no event for every state
        await asyncio.sleep(0.0005)


class Call:
    """A request under way. `messages` are what the application has sent; `leave` closes the connection."""

    def __init__(
        self, app: ASGIApp, method: str, path: str, *, headers: Mapping[str, str], chunks: Iterable[bytes]
    ) -> None:
        self.messages: list[Message] = []
        self.hold: asyncio.Event | None = None  # body messages wait for it: a slow reader
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._changed = asyncio.Event()
        parts = list(chunks)
        for number, chunk in enumerate(parts):
            more = number < len(parts) - 1
            self._incoming.put_nowait({"type": "http.request", "body": chunk, "more_body": more})
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(key.lower().encode(), value.encode()) for key, value in headers.items()],
            "client": ("192.0.2.7", 5000),
            "server": ("test", 80),
            "state": {},
        }
        self.task = asyncio.ensure_future(app(scope, self._incoming.get, self._send))

    @classmethod
    def json(cls, app: ASGIApp, path: str, body: Any, **headers: str) -> Call:
        sent = {"content-type": "application/json", **headers}
        return cls(app, "POST", path, headers=sent, chunks=[json.dumps(body).encode()])

    async def _send(self, message: Message) -> None:
        self.messages.append(message)
        self._changed.set()
        if self.hold is not None and message["type"] == "http.response.body":
            await self.hold.wait()

    def leave(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def until(self, count: int) -> None:
        """Wait until the application has sent so many messages."""
        while len(self.messages) < count:
            self._changed.clear()
            await self._changed.wait()

    async def done(self) -> None:
        """Wait until the application has finished with the request."""
        await self.task

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        return {key.decode(): value.decode() for key, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])


def events(body: bytes) -> list[tuple[str, Any]]:
    """The server-sent events of a body as (event, data); `[DONE]` as text."""
    found = []
    for block in body.decode().split("\n\n"):
        name, data = "message", None
        for line in block.splitlines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = line.removeprefix("data: ")
        if data is not None:
            found.append((name, data if data == "[DONE]" else json.loads(data)))
    return found
