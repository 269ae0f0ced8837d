"""One request over HTTP with the time of its first token, and one as Triton's gRPC takes it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from bench.stack.facade import HttpCaller, generate_request
from perf.deployed import Deployed
from perf.errors import LoadError
from perf.http.ask import Ask, Task
from perf.http.wire import Origin
from runtime.contract import Kind
from tests.perf.http.server import Pause, Step, chunked, serving, whole

ASK = Ask(Task.GENERATE, max_tokens=2, ignore_eos=True)
DEPLOYED = Deployed("dep-1", "mini-lm", 3, "int8", Kind.LM, Task.GENERATE)
BEFORE, BETWEEN = 0.03, 0.2  # seconds


def event(token: int, usage: dict[str, int] | None) -> bytes:
    return b"data: %s\n\n" % json.dumps({"choices": [{"token_ids": [token]}], "usage": usage}).encode()


def stream(_: Any) -> Iterator[Step]:
    last = event(2, {"prompt_tokens": 1, "completion_tokens": 2})
    head, first, second, end = chunked(event(1, None), last)
    yield from [head, Pause(BEFORE), first, Pause(BETWEEN), second, end]


@pytest.mark.anyio
async def test_the_first_token_counts_and_the_connection_stays() -> None:
    async with serving(stream) as server:
        caller = await HttpCaller.open(Origin.parse(server.url), ASK, "mini-lm")
        try:
            for text in ("one", "two"):
                assert BEFORE <= await caller.first_token(text) < BETWEEN
        finally:
            caller.close()
        assert server.connections == 1
        assert [body["prompt"] for body in server.bodies] == ["one", "two"]


@pytest.mark.anyio
async def test_a_refusal_is_no_figure() -> None:
    async with serving(lambda _: whole(b"{}", "429 Too Many Requests")) as server:
        caller = await HttpCaller.open(Origin.parse(server.url), ASK, "mini-lm")
        with pytest.raises(LoadError, match="over HTTP: 429"):
            await caller.first_token("one")
        caller.close()


def test_a_request_for_triton() -> None:
    request = generate_request(DEPLOYED, ASK, "größer")
    assert (request.model_name, request.model_version) == ("mini-lm", "3")
    contents = dict(zip((each.name for each in request.inputs), request.raw_input_contents, strict=True))
    assert contents["text_input"] == struct.pack("<I", 8) + "größer".encode()
    assert json.loads(contents["sampling_parameters"][4:])["max_tokens"] == 2
    assert contents["stream"] == b"\1"
    assert [output.name for output in request.outputs] == ["details"]
