"""What a stranger may make a connection keep, and for how long: limits, what counts against them, and the
answer to what is beyond them."""

from __future__ import annotations

import asyncio
import heapq
import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from api.errors import ApiError
from api.front.middleware import HEADER
from api.front.problems import (
    MEDIA_TYPE,
    AddressTooLong,
    HeadTooLarge,
    openai_body,
    problem_of,
    retry_headers,
)
from api.front.security import SECURITY_HEADERS

MAX_HEAD_BYTES = 64 * 1024
MAX_FIELDS = 100
MIN_PIECE = 4096  # bytes fed to the parser at once, however near the bound is
CHUNK_FRAME = 16  # bytes around a chunk that are not held against it: its size in hex and line ends
LEAST_RATE = 1024  # bytes a second; what is slower stands still
# An answer that came before the end of its request is lost if the rest meets a closed socket (RFC 9112, 9.6).
LINGER_SECONDS = 30.0
LINGER_BYTES = 64 * 1024**2
SPARE_CONNECTIONS = 32  # above the bound: only health is answered there
GRACE_SECONDS = 1.0  # for a request to come before its connection gives way to another one


@dataclass(frozen=True, slots=True)
class Bounds:
    """Times are in seconds."""

    head_seconds: float
    stall_seconds: float
    keep_alive_seconds: float
    max_connections: int


class Refused(Exception):
    """Ends the parser's work within one of its calls."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.detail)
        self.error = error


class HeadSize:
    """Counts a request's head, its trailers and the framing of its body; raises Refused above a limit."""

    def __init__(self) -> None:
        self._fields = 0  # of the head and the trailers
        self._bytes = 0  # of those that are whole
        self._bodiless = 0  # bytes since the head began that brought no body
        self._is_open = False  # the head is not whole yet

    def begin(self) -> None:
        self._fields = self._bytes = 0
        self._is_open = True

    def complete(self) -> None:
        """The head is whole."""
        self._is_open, self._bodiless = False, 0

    def end(self) -> None:
        """The request is whole."""
        self._bodiless = 0

    @property
    def next_piece(self) -> int:
        """Bytes that the parser may read before the limit is looked at again."""
        return max(MIN_PIECE, MAX_HEAD_BYTES + 1 - self._bodiless)

    def add_address(self, url: bytes) -> None:
        self._add(len(url))

    def add_field(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise Refused(HeadTooLarge(f"the head has more than {MAX_FIELDS} fields, the limit"))
        self._add(len(name) + len(value) + len(b": \r\n"))

    def add_piece(self, size: int) -> None:
        """The parser is about to read `size` bytes; `add_body` takes off those that are a body."""
        self._bodiless += size

    def add_body(self, size: int) -> None:
        self._bodiless = max(0, self._bodiless - size - CHUNK_FRAME)

    @property
    def excess(self) -> ApiError | None:
        """The error where too much came that is no body; else None."""
        return self._too_large() if self._bodiless > MAX_HEAD_BYTES else None

    def _add(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MAX_HEAD_BYTES:
            raise Refused(self._too_large())

    def _too_large(self) -> ApiError:
        if self._is_open and self._fields == 0:
            return AddressTooLong(f"the address has more than {MAX_HEAD_BYTES} bytes, the limit for a head")
        return HeadTooLarge(f"the head has more than {MAX_HEAD_BYTES} bytes, the limit")


@dataclass(slots=True)
class Pace:
    """Whether bytes move: the count at the begin of a window."""

    since: float
    count: int

    def too_slow(self, now: float, count: int, seconds: float) -> bool:
        """Whether a window of `seconds` is over, and too little came in it."""
        if now - self.since < seconds:
            return False
        slow = count - self.count < seconds * LEAST_RATE
        self.since, self.count = now, count
        return slow


class Wire:
    """The transport as uvicorn gets it: it sees whether the caller reads, and is closed by its connection."""

    def __init__(self, raw: asyncio.Transport, end: Callable[[], None]) -> None:
        self._raw = raw
        self._written = 0
        self._pace = Pace(0.0, 0)
        self.close = end
        self.lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def write(self, data: bytes) -> None:
        self._written += len(data)
        self._raw.write(data)

    def is_closing(self) -> bool:
        return self.lingering or self._raw.is_closing()

    def stalls(self, now: float, seconds: float) -> bool:
        """Whether the caller took too little of what waits for it in a window of `seconds`."""
        pending = self._raw.get_write_buffer_size()
        sent = self._written - pending
        if pending:
            return self._pace.too_slow(now, sent, seconds)
        self._pace = Pace(now, sent)
        return False


class Rest:
    """What may still come of a request that has its answer."""

    def __init__(self) -> None:
        self._until = 0.0
        self._left = 0  # bytes

    def expect(self, now: float) -> None:
        self._until, self._left = now + LINGER_SECONDS, LINGER_BYTES

    def too_long(self, size: int) -> bool:
        """Count bytes that came; whether they were too many."""
        self._left -= size
        return self._left < 0

    def too_late(self, now: float) -> bool:
        return now >= self._until


class Waiting(Protocol):
    """A connection as the bound on their number sees it."""

    @property
    def waits_since(self) -> float | None:
        """Since when no request is under way here, so that closing it loses none; else None."""


AnyWaiting = TypeVar("AnyWaiting", bound=Waiting)


def giving_way(others: Iterable[AnyWaiting], over: int, now: float) -> list[AnyWaiting]:
    """The connections to close where `over` more than the bound are open: those that wait longest."""
    waiting = [(since, id(other), other) for other in others if (since := other.waits_since) is not None]
    many = len(waiting) > SPARE_CONNECTIONS
    longest = heapq.nsmallest(max(over, len(waiting) // 64), waiting)
    return [other for since, _, other in longest if many or now - since > GRACE_SECONDS]


def refusal(error: ApiError, default_fields: Iterable[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    """The status, and the whole answer of HTTP/1.1, to what did not become a request."""
    problem = problem_of(error.slug, error.detail)
    problem.request_id = secrets.token_hex(12)
    body = {**problem.model_dump(exclude_none=True), "error": openai_body(error).model_dump()}
    content = json.dumps(body).encode()
    fields = {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(content)),
        "Connection": "close",
        HEADER: problem.request_id,
        **SECURITY_HEADERS,
        **retry_headers(error),
    }
    lines = [STATUS_LINE[problem.status]]
    lines += [b"%s: %s\r\n" % field for field in default_fields]
    lines += [f"{name}: {value}\r\n".encode() for name, value in fields.items()]
    return problem.status, b"".join([*lines, b"\r\n", content])
