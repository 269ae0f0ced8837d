"""What strangers send to a real socket: heads, bodies, readers without end, too many connections."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api import bounds
from api.bounds import MAX_FIELDS, MAX_HEAD_BYTES
from api.config import Settings
from api.server import connections_for
from runtime.contract import FinishReason
from runtime.messages import Answer, Choice, Generated, Usage
from tests.api.asgi import until
from tests.api.conftest import Serve
from tests.api.fakes import FakeBack
from tests.api.front.test_streams import Gate
from tests.api.sockets import BODY, CHUNKED, HEALTH, POST, WHOLE, Client, Served

ENDLESS = {
    "a value": (HEALTH + b"X: " + b"a" * MAX_HEAD_BYTES, 431),
    "a name": (HEALTH + b"a" * MAX_HEAD_BYTES, 431),
    "fields": (HEALTH + b"X: a\r\n" * MAX_FIELDS + b"Y", 431),
    "an address": (b"GET /" + b"a" * MAX_HEAD_BYTES, 414),
    "an address with its end": (b"GET /?q=" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n", 414),
    "a later head": (HEALTH + b"\r\n" + HEALTH + b"X: " + b"a" * 2 * MAX_HEAD_BYTES, 431),
    "a trailer": (CHUNKED + b"0\r\nX: " + b"a" * 2 * MAX_HEAD_BYTES, 431),
    "trailers": (CHUNKED + b"0\r\n" + b"X: a\r\n" * MAX_FIELDS + b"\r\n", 431),
    "the extension of a chunk": (CHUNKED + b"1;" + b"a" * 2 * MAX_HEAD_BYTES, 431),
    "extensions of chunks": (CHUNKED + (b"1;" + b"a" * 9000 + b"\r\na\r\n") * 20, 431),
    "empty lines": (b"\r\n" * MAX_HEAD_BYTES, 431),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "a proxy's method": (b"CONNECT x:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a chunk without size": (CHUNKED + b"z\r\n", 400),
}


def test_what_has_no_end_is_refused_as_it_comes(serve: Serve) -> None:
    async def refusal(served: Served, sent: bytes) -> int:
        client = await served.client()
        await client.send(sent)
        answer = await client.answer()
        if answer[0] == 200:  # to a whole request before it
            answer = await client.answer()
        assert (answer[1]["content-type"], answer[1]["connection"]) == ("application/problem+json", "close")
        assert json.loads(answer[2])["request_id"] == answer[1]["x-request-id"]
        client.leave()
        return answer[0]

    async def test(served: Served) -> None:
        given = {name: await refusal(served, sent) for name, (sent, _) in ENDLESS.items()}
        assert given == {name: status for name, (_, status) in ENDLESS.items()}
        await until(lambda: served.connections == 0)

    serve(test)


def test_what_is_within_the_limits_is_read_again_and_again(serve: Serve) -> None:
    by_bytes = b'{"prompt": "' + b"a" * 50_000 + b'"}'

    async def test(served: Served) -> None:
        client = await served.client()
        for _ in range(2):
            assert await client.ask(HEALTH + b"X: " + b"a" * (MAX_HEAD_BYTES - 100) + b"\r\n\r\n") == 200
            assert await client.ask(HEALTH + b"X: a\r\n" * (MAX_FIELDS - 1) + b"\r\n") == 200
            assert await client.ask(CHUNKED + b"f\r\n" + BODY + b"\r\n0\r\nX: a\r\n\r\n") == 200
            chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in by_bytes)
            assert await client.ask(CHUNKED + chunks + b"0\r\n\r\n") == 200

    serve(test)


def test_the_rest_of_a_refused_request_is_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "LINGER_BYTES", 1024**2)

    async def flood(client: Client) -> None:
        while True:
            await client.send(b"a" * 65_536)

    async def test(served: Served) -> None:
        for closing in (b"Connection: close\r\n", b""):
            client = await served.client()
            await client.send(POST + closing + b"Content-Length: 99999999999\r\n\r\n")
            with pytest.raises(ConnectionError):
                await flood(client)

    serve(test)


def test_who_keeps_us_waiting_is_left(serve: Serve, back: FakeBack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "LINGER_SECONDS", 0.1)
    gate = Gate()
    back.cluster.reply = gate.reply

    async def test(served: Served) -> None:
        silent, head, body = [await served.client() for _ in range(3)]
        await head.send(HEALTH)
        await body.send(POST + b"Content-Length: 100\r\n\r\n{")
        early = await served.client()  # no sooner, lest it is late itself on a busy machine
        await early.send(POST + b"Content-Length: 99999999\r\n\r\n{")
        assert (await early.answer())[0] == 413  # and the rest does not come
        idle = await served.client()
        assert await idle.ask(HEALTH + b"\r\n") == 200
        await idle.send(b"\r\n")  # is nothing, and must not stop the clock
        late = await served.client()
        await late.send(WHOLE)  # waits for the model as long as it takes
        for client in (head, body):
            status, _, content = await client.answer()
            assert (status, json.loads(content)["type"]) == (408, "/docs#too-slow")
        for client in (silent, head, body, idle, early):
            assert await client.ended() == b""
            client.leave()
        gate.open(3)
        assert (await late.answer())[0] == 200
        assert [record.state.value for record in back.tasks.records.values()] == ["done"]

    serve(test, head_timeout_seconds=0.1, stall_timeout_seconds=0.1, keep_alive_seconds=0.1)


def test_a_reader_who_stops_is_left(serve: Serve, back: FakeBack, settings: Settings) -> None:
    """Also one of a large answer, which stays in the transport's buffer."""

    async def reply(*_: Any) -> AsyncIterator[Answer]:
        text = "a" * 16 * 1024**2  # more than the sockets between hold
        choice = Choice(0, text, [1], None, FinishReason.LENGTH)
        yield Generated(1, [choice], Usage.of(1, 1), None)

    back.cluster.reply = reply

    async def test(served: Served) -> None:
        reading, stopped = await served.client(), await served.client(buffer=4096)
        await reading.send(WHOLE)
        assert len((await reading.answer())[2]) > 16 * 1024**2
        await stopped.send(WHOLE)
        await until(lambda: back.cluster.closed == 2)  # its answer is being written
        await until(lambda: served.connections == 0)

    serve(test, stall_timeout_seconds=0.1, keep_alive_seconds=0.1)


def test_idle_connections_give_way(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "GRACE_SECONDS", 0)

    async def test(served: Served) -> None:
        idle = [await served.client() for _ in range(3)]
        assert await idle[0].ask(HEALTH + b"\r\n") == 200
        await idle[2].send(HEALTH)  # half a head, and the latest to have been heard
        for longest in (idle[1], idle[0]):
            assert await (await served.client()).ask(WHOLE) == 200
            assert await longest.ended() == b""

    serve(test, max_connections=3)


def test_where_all_connections_are_busy_only_health_is_answered(
    serve: Serve, back: FakeBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "SPARE_CONNECTIONS", 2)
    monkeypatch.setattr(bounds, "GRACE_SECONDS", 60)
    gate = Gate()
    back.cluster.reply = gate.reply

    async def test(served: Served) -> None:
        busy = [await served.client() for _ in range(3)]
        for client in busy[:2]:
            await client.send(WHOLE)
        await busy[2].send(POST + b"Content-Length: 100\r\n\r\n{")  # a body under way is work too
        await until(lambda: back.cluster.running == 2)
        more = await served.client()
        await more.send(WHOLE)
        status, fields, content = await more.answer()
        assert (status, fields["retry-after"], fields["connection"]) == (503, "1", "close")
        assert json.loads(content)["type"] == "/docs#unavailable"
        assert await more.ended() == b""
        for _ in range(5):
            assert await (await served.client()).ask(HEALTH + b"\r\n") == 200
        await until(lambda: served.connections == 3)
        for _ in range(2):
            await served.client()  # may be about to ask for it
        await until(lambda: served.connections == 5)
        refused = await served.client()
        status, fields, _ = await refused.answer()
        assert (status, fields["retry-after"]) == (503, "1")
        assert await refused.ended() == b""
        gate.open(6)
        for client in busy[:2]:
            assert (await client.answer())[0] == 200

    serve(test, max_connections=3)


def test_half_of_the_files_left_are_for_connections() -> None:
    assert [connections_for(limit) for limit in (64, 1024, 4096, 10**6)] == [16, 448, 1984, 8192]
