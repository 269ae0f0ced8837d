"""The client against a real server: whatever comes over the socket, an exchange ends, and says how."""

from __future__ import annotations

import asyncio
import time

import pytest

from perf.http.wire import Connection, Exchange, Failure, Origin, connect
from tests.perf.http.server import Drop, Pause, Step, chunked, serving, whole

pytestmark = pytest.mark.anyio
TIMEOUT = 5.0


class Caller:
    """One connection, and a future for the exchange that is under way."""

    def __init__(self, url: str) -> None:
        self.origin = Origin.parse(url)
        self.connection: Connection | None = None
        self._ended: asyncio.Future[Exchange] = asyncio.get_running_loop().create_future()

    async def ask(self, timeout: float = TIMEOUT) -> Exchange:
        if self.connection is None or not self.connection.usable:
            self.connection = await connect(self.origin, TIMEOUT, self._end)
        assert self.connection is not None
        self._ended = asyncio.get_running_loop().create_future()
        self.connection.start(Exchange(time.perf_counter()), self.origin.post("/", b"{}"), timeout)
        return await asyncio.wait_for(self._ended, TIMEOUT)

    def _end(self, connection: Connection, exchange: Exchange) -> None:
        assert connection is self.connection
        self._ended.set_result(exchange)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()


async def asked(*steps: Step, timeout: float = TIMEOUT) -> Exchange:
    """What one request came to whose answer is `steps`."""
    async with serving(lambda body: steps) as server:
        caller = Caller(server.url)
        exchange = await caller.ask(timeout)
        caller.close()
        return exchange


def body(exchange: Exchange) -> bytes:
    return b"".join(piece for _, piece in exchange.pieces)


async def test_a_whole_answer() -> None:
    exchange = await asked(*whole(b"hello"))
    assert (exchange.status, exchange.failure, body(exchange)) == (200, None, b"hello")
    assert exchange.intended <= exchange.sent <= exchange.pieces[0][0] <= exchange.ended


async def test_several_events_in_a_chunk_and_one_over_several() -> None:
    exchange = await asked(*chunked(b"data: 1\n\ndata: 2\n\nda", b"ta: ", b"3\n\n"))
    assert (exchange.failure, body(exchange)) == (None, b"data: 1\n\ndata: 2\n\ndata: 3\n\n")


async def test_pieces_have_the_times_at_which_they_came() -> None:
    head, first, second, end = chunked(b"data: 1\n\n", b"data: 2\n\n")
    exchange = await asked(head, first, Pause(0.05), second, Pause(0.05), end)
    times = [time for time, _ in exchange.pieces]
    assert times[1] - times[0] > 0.04
    assert exchange.ended - times[1] > 0.04


async def test_bytes_one_by_one() -> None:
    stream = b"".join(step for step in chunked(b"data: 1\n\n", b"data: 2\n\n") if isinstance(step, bytes))
    exchange = await asked(*(stream[place : place + 1] for place in range(len(stream))))
    assert (exchange.status, exchange.failure, body(exchange)) == (200, None, b"data: 1\n\ndata: 2\n\n")


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with serving(lambda body: chunked(b"data: 1\n\n")) as server:
        caller = Caller(server.url)
        for _ in range(5):
            assert (await caller.ask()).succeeded
        caller.close()
        assert server.connections == 1


async def test_a_server_that_closes_after_each_answer() -> None:
    async with serving(lambda body: [*whole(b"x", "200 OK", "Connection: close"), Drop]) as server:
        caller = Caller(server.url)
        for _ in range(3):
            assert body(await caller.ask()) == b"x"
        caller.close()
        assert server.connections == 3


async def test_a_body_that_ends_with_its_connection() -> None:
    exchange = await asked(b"HTTP/1.1 200 OK\r\n\r\n", b"until the end", Drop)
    assert (exchange.failure, body(exchange)) == (None, b"until the end")


async def test_an_error_status_with_its_body() -> None:
    exchange = await asked(*whole(b'{"type": "/docs#overloaded"}', "429 Too Many Requests"))
    assert (exchange.status, exchange.failure, exchange.succeeded) == (429, None, False)
    assert b"overloaded" in body(exchange)


@pytest.mark.parametrize("steps", [[Drop], chunked(b"data: 1\n\n")[:2], [b"HTTP/1.1 200 OK\r\nContent-"]])
async def test_a_connection_that_is_dropped(steps: list[Step]) -> None:
    assert (await asked(*steps, Drop)).failure is Failure.DROPPED


async def test_an_answer_that_does_not_end_in_time() -> None:
    begin = time.perf_counter()
    exchange = await asked(chunked()[0], Pause(3), timeout=0.1)
    assert exchange.failure is Failure.TIMEOUT
    assert 0.1 <= exchange.ended - begin < 2


async def test_what_is_not_http() -> None:
    assert (await asked(b"SSH-2.0-OpenSSH_9.2\r\n", Pause(1))).failure is Failure.NOT_HTTP


async def test_nobody_there() -> None:
    async with serving(lambda body: []) as server:
        origin = Origin.parse(server.url)
    assert await connect(origin, TIMEOUT, lambda connection, exchange: None) is None


def test_parts_of_an_address() -> None:
    assert Origin.parse("http://h:81/base/") == Origin("h", 81, False, "/base")
    assert Origin.parse("https://h") == Origin("h", 443, True, "")
    assert (
        Origin.parse("http://[::1]:8080")
        .post("/v1/x", b"{}")
        .startswith(b"POST /v1/x HTTP/1.1\r\nHost: [::1]:8080\r\n")
    )


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://h", "http://", "http://h:port"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        Origin.parse(url)
