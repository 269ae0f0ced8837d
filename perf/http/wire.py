"""An HTTP/1.1 client that uses little CPU: the server under load shares the cores.

While a load runs, only the framing of HTTP is parsed (by httptools, in C); each piece of a body is kept with
the time at which it came, and read when the load has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import cast
from urllib.parse import urlsplit

import httptools


class Failure(str, Enum):
    """Why an exchange has no answer."""

    CANNOT_CONNECT = "cannot connect"
    DROPPED = "connection dropped"
    TIMEOUT = "timeout"
    NOT_HTTP = "not HTTP"


@dataclass(slots=True)
class Exchange:
    """One request and its answer. Times are seconds of `time.perf_counter`."""

    intended: float
    sent: float = 0.0
    ended: float = 0.0
    status: int = 0
    failure: Failure | None = None
    pieces: list[tuple[float, bytes]] = field(default_factory=list)  # of the body, as they came

    @property
    def succeeded(self) -> bool:
        """As far as HTTP says; a stream may still end with an error event."""
        return self.failure is None and self.status < 400


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests go: the parts of a base URL."""

    host: str
    port: int
    secure: bool
    prefix: str
    key: str = field(default="", repr=False)  # an API key

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an address like http://127.0.0.1:8080")
        secure = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if secure else 80), secure, parts.path.rstrip("/"))

    def post(self, path: str, body: bytes) -> bytes:
        """The bytes of a whole request."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        key = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"POST {self.prefix}{path} HTTP/1.1\r\nHost: {host}:{self.port}\r\nAccept: */*\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Connection(asyncio.Protocol):
    """One connection, with one exchange at a time; `ended` is called at the end of each, however it ends."""

    def __init__(self, ended: Callable[[Connection, Exchange], None]) -> None:
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._now = 0.0
        self._framed = False  # whether the head says where the body ends
        self._complete = False
        self._kept = False
        self._transport: asyncio.Transport

    @property
    def usable(self) -> bool:
        return self._exchange is None and not self._transport.is_closing()

    def start(self, exchange: Exchange, request: bytes, timeout: float) -> None:
        """Send a request; only on a usable connection."""
        self._exchange = exchange
        self._framed = self._complete = False
        self._timer = self._loop.call_later(timeout, self._expire)
        exchange.sent = time.perf_counter()
        self._transport.write(request)

    def close(self) -> None:
        self._transport.abort()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()
            self._end(Failure.NOT_HTTP)
            return
        if self._complete:
            if not self._kept:
                self._transport.close()
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._now = time.perf_counter()
        whole = self._exchange is not None and self._exchange.status and not self._framed and error is None
        self._end(None if whole else Failure.DROPPED)

    # What httptools calls

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        if self._exchange is not None:
            self._exchange.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._exchange is not None:
            self._exchange.pieces.append((self._now, body))

    def on_message_complete(self) -> None:
        self._complete = True
        self._kept = self._parser.should_keep_alive()  # the parser knows it here, and not later

    def _expire(self) -> None:
        self._now = time.perf_counter()
        self._transport.abort()
        self._end(Failure.TIMEOUT)

    def _end(self, failure: Failure | None) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:  # an idle connection that the server closed
            return
        if self._timer is not None:
            self._timer.cancel()
        exchange.ended = self._now
        exchange.failure = failure
        self._ended(self, exchange)


async def connect(
    origin: Origin, timeout: float, ended: Callable[[Connection, Exchange], None]
) -> Connection | None:
    """A new connection, or None where none can be had within `timeout` seconds."""
    loop = asyncio.get_running_loop()
    opening = loop.create_connection(
        lambda: Connection(ended), origin.host, origin.port, ssl=True if origin.secure else None
    )
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        return (await asyncio.wait_for(opening, timeout))[1]
    return None
