"""Requests as bytes on a real socket: one after another, with trailers, with an early answer."""

from __future__ import annotations

import json

import pytest

from api.bounds import MAX_FIELDS
from api.connection import MAX_PIPELINED
from tests.api.asgi import events
from tests.api.conftest import Serve
from tests.api.fakes import FakeBack
from tests.api.sockets import BODY, CHUNKED, HEALTH, POST, WHOLE, Served


def test_a_trailer_is_no_field_of_the_head(serve: Serve, back: FakeBack) -> None:
    async def test(served: Served) -> None:
        client = await served.client()
        await client.send(CHUNKED + b"f\r\n" + BODY + b"\r\n0\r\nX-Deadline-Ms: soon\r\n\r\n")
        assert (await client.answer())[0] == 200

    serve(test)


def test_requests_in_one_write_are_answered_in_order(serve: Serve) -> None:
    async def test(served: Served) -> None:
        client = await served.client()
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        asking = WHOLE.replace(b"Host: localhost\r\n", b"Host: localhost\r\n" + upgrade)
        await client.send(HEALTH + upgrade + b"\r\n" + asking + HEALTH + b"\r\n" + asking)
        bodies = [json.loads((await client.answer())[2]) for _ in range(4)]
        assert [min(body) for body in bodies] == ["detail", "choices", "detail", "choices"]

        await client.send(WHOLE * 2 + b"nonsense\r\n\r\n" + WHOLE)
        assert [(await client.answer())[0] for _ in range(2)] == [200, 200]
        assert await client.ended() == b""

        client = await served.client()
        await client.send(WHOLE * (2 * MAX_PIPELINED))
        answers = (await client.ended()).count(b"HTTP/1.1 200 OK")
        assert MAX_PIPELINED <= answers <= MAX_PIPELINED + 1

    serve(test)


EARLY = {
    413: POST,
    404: POST.replace(b"generate", b"nothing"),
    405: POST.replace(b"POST", b"PUT"),
    415: POST.replace(b"json", b"xml"),
    400: b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data\r\n",
    431: POST + b"X: a\r\n" * MAX_FIELDS,
}


@pytest.mark.parametrize("closing", [b"Connection: close\r\n", b""])
def test_an_answer_before_the_end_of_the_body_is_not_lost(serve: Serve, closing: bytes) -> None:
    size = 16 * 1024**2  # more than the sockets between hold

    async def test(served: Served) -> None:
        for status, head in EARLY.items():
            client = await served.client()
            await client.send(head + closing + b"Content-Length: %d\r\n\r\n" % size)
            await client.send(b"a" * size)
            assert (await client.answer())[0] == status
            if closing or status == 431:
                assert await client.ended() == b""
            else:
                assert await client.ask(WHOLE) == 200

    serve(test)


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_of_http_1_0_has_no_chunks_and_ends_with_its_connection(serve: Serve, stream: bool) -> None:
    body = json.dumps({"prompt": "a", "stream": stream}).encode()
    head = b"POST /v1/generate HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"

    async def test(served: Served) -> None:
        client = await served.client()
        await client.send(head % len(body) + body)
        answer, _, content = (await client.ended()).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in answer.lower()
        if stream:
            assert [len(data["choices"]) for _, data in events(content)] == [1, 1, 1, 0]
        else:
            assert json.loads(content)["choices"][0]["text"] == " a b c"

    serve(test)
