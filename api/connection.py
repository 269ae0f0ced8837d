"""One HTTP connection: uvicorn's, which keeps to the bounds of `api.bounds`.

The parser collects a field until its end, however long it is. So bytes are fed to it in pieces, and those
that bring no body (a head, the framing of chunks, trailers) are counted as they come.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Set
from enum import Enum
from typing import Any, cast

import httptools
import uvicorn
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api import bounds
from api.bounds import Bounds, HeadSize, Pace, Refused, Rest, Waiting, Wire, giving_way, refusal
from api.errors import ApiError, Unavailable
from api.front.endpoint import CROWDED
from api.front.problems import BadRequest, TooSlow
from api.middle.metrics import Metrics

MAX_PIPELINED = 64  # requests of one connection that wait behind each other

log = logging.getLogger("lmaas.access")


class Config(uvicorn.Config):
    """What every connection is given."""

    def __init__(self, app: Any, bounds: Bounds, metrics: Metrics, **options: Any) -> None:
        super().__init__(app, http=Connection, ws="none", **options)
        self.tls: ssl.SSLContext | None = None
        self.bounds = bounds
        self.metrics = metrics


def make_room(newest: Waiting, connections: Set[Any], limit: int) -> bool:
    """Close those that have waited longest; False where none can be closed, so that the newest is."""
    over = len(connections) - limit
    if over <= 0:
        return True
    leaving = giving_way(connections - {newest}, over, asyncio.get_running_loop().time())
    for other in leaving:
        other.give_way()
    return bool(leaving) or over <= bounds.SPARE_CONNECTIONS


class Phase(Enum):
    """What of a request comes next."""

    START = "start"
    HEAD = "head"
    BODY = "body"


class Connection(HttpToolsProtocol):
    """`check` is called about once a second; deadlines are kept by it."""

    config: Config

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = config.bounds
        self._raw: asyncio.Transport
        self._wire: Wire
        self._phase = Phase.START
        self._since = self.loop.time()  # of the present wait for a head
        self._size = HeadSize()
        self._postponed = b""  # a head, to be read again without its Upgrade
        self._received = 0
        self._reading = Pace(0.0, 0)
        self._deaf = False  # what comes is no request any more
        self._rest = Rest()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast("asyncio.Transport", transport)
        self._wire = Wire(self._raw, self.end)
        super().connection_made(cast("asyncio.Transport", self._wire))
        self._make_room()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._received += len(data)
        rest = memoryview(data)
        while rest and not self._deaf:
            rest = rest[self._feed(rest[: self._size.next_piece]) :]
        if self._only_rest and self._rest.too_long(len(data)):
            self._raw.abort()

    def shutdown(self) -> None:
        if self._answering:
            super().shutdown()
        else:
            self._raw.close()

    # What the parser calls

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase, self._since = Phase.HEAD, self.loop.time()
        self._size.begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._size.add_address(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size.add_field(name, value)
        if self._phase is Phase.HEAD:  # else a trailer, which must not pass for a field of the head
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            self._postpone()
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            raise Refused(BadRequest(f"more than {MAX_PIPELINED} requests wait on this connection"))
        crowded = len(self.connections) > self._bounds.max_connections
        if crowded:
            self.scope["state"][CROWDED] = True
        super().on_headers_complete()
        if crowded:
            self.cycle.keep_alive = False
        if self.scope["http_version"] == "1.0":
            _send_unframed(self.cycle)
        self._phase = Phase.BODY
        self._size.complete()
        self._reading = Pace(self.loop.time(), self._received)

    def on_body(self, body: bytes) -> None:
        self._size.add_body(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._phase, self._since = Phase.START, self.loop.time()
        self._size.end()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._since = self.loop.time()
        if self._phase is Phase.BODY and not self._wire.lingering:
            self._rest.expect(self.loop.time())

    # Deadlines and room

    def check(self, now: float) -> None:
        """End the connection where it kept us waiting for too long."""
        limits = self._bounds
        if self._wire.stalls(now, limits.stall_seconds):
            self._raw.abort()
        elif self._only_rest:
            if self._rest.too_late(now):
                self._raw.abort()
        elif self._phase is Phase.BODY:
            self._check_body(now)
        elif self._answering or self._wire.is_closing():
            return
        elif self._phase is Phase.HEAD and now - self._since >= limits.head_seconds:
            self._refuse(TooSlow(f"the head was not whole after {limits.head_seconds:g} s, the limit"))
        elif now - self._since >= (limits.head_seconds if self.cycle is None else limits.keep_alive_seconds):
            self._raw.close()

    def _check_body(self, now: float) -> None:
        if self.flow.read_paused:  # it is our turn
            self._reading = Pace(now, self._received)
        elif self._reading.too_slow(now, self._received, self._bounds.stall_seconds):
            limit = f"{bounds.LEAST_RATE} bytes a second over {self._bounds.stall_seconds:g} s"
            self._refuse(TooSlow(f"the body came slower than {limit}, the least"))

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _only_rest(self) -> bool:
        """What may still come belongs to a request that has its answer."""
        return self._wire.lingering or (self._phase is Phase.BODY and not self._answering)

    @property
    def waits_since(self) -> float | None:
        """Since when no request is under way here, so that closing it loses none; else None."""
        if self._wire.lingering or (self._phase is not Phase.BODY and not self._answering):
            return self._since
        return None

    def give_way(self) -> None:
        self._raw.abort()

    def _make_room(self) -> None:
        """Close those that have waited longest; refuse this one where none can be closed."""
        limit = self._bounds.max_connections
        if not make_room(self, cast("set[Any]", self.connections), limit):
            self._deaf = True
            self._write_refusal(Unavailable(f"{limit} connections are in use, which is the limit"))
            self._raw.close()

    # Refusals

    def _feed(self, piece: memoryview) -> int:
        """Let the parser read; returns how much it took."""
        self._size.add_piece(len(piece))
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._feed(memoryview(self._postponed))
            return int(upgrade.args[0])
        except httptools.HttpParserError as error:
            cause = error.__context__
            known = isinstance(cause, Refused)
            self._refuse(cause.error if known else BadRequest("this is no request of HTTP/1.1 (RFC 9112)"))
        else:
            if (excess := self._size.excess) is not None:
                self._refuse(excess)
        return len(piece)

    def _postpone(self) -> None:
        """Make a head that asks for another protocol one that does not: the parser sees no body after it.

        Java's client asks for h2c with its first request. Who offers nothing else ignores it (RFC 9110, 7.8).
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise Refused(BadRequest("CONNECT is for proxies, which this server is not"))
        lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % field for field in self.headers if field[0] != b"upgrade"]
        self._postponed = b"\r\n".join([*lines, b"", b""])

    def _refuse(self, error: ApiError) -> None:
        """Answer what is not a request, where nothing else is being answered, and end the connection."""
        self._deaf = True
        if self._phase is Phase.BODY and not self._answering:
            self._linger()  # it has its answer
        elif self._answering and self._phase is not Phase.BODY:
            self.cycle.keep_alive = False  # ends after the answers to what came before
            self.flow.pause_reading()
        elif self._answering and (self.pipeline or self.cycle.response_started):
            self._raw.abort()
        else:
            if self._answering:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self._write_refusal(error)
            self._linger()

    def _write_refusal(self, error: ApiError) -> None:
        status, answer = refusal(error, self.server_state.default_headers)
        self._wire.write(answer)
        self.config.metrics.requests.labels("other", "none", str(status)).inc()
        fields = {"status": status, "detail": error.detail, "client": self.client and self.client[0]}
        log.info("%(client)s refused: %(status)s %(detail)s", fields, extra={"fields": fields})

    # The end

    def end(self) -> None:
        """Close, but let the caller read what it was sent."""
        if self._phase is Phase.START and not self._deaf:
            self._raw.close()
        else:
            self._linger()

    def _linger(self) -> None:
        if self._wire.is_closing():
            return
        self._wire.lingering = self._deaf = True
        self._since = self.loop.time()
        self._rest.expect(self._since)
        self.flow.resume_reading()
        if self._raw.can_write_eof():  # TLS has no end of one direction: the length says where an answer ends
            self._raw.write_eof()


def _send_unframed(cycle: RequestResponseCycle) -> None:
    """HTTP/1.0 has no chunks: the answer ends where its connection does (RFC 9112, section 6.3)."""
    send = cycle.send

    async def send_unframed(message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            cycle.chunked_encoding = False
        elif message["type"] == "http.response.body":
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    cycle.send = send_unframed  # type: ignore[method-assign]
