"""What answers come to: tokens with their times, or the kind of the error."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.http.ask import Api, Ask, Task
from perf.http.outcome import INCOMPLETE, Event, Outcome, events, problem_kind, read
from perf.http.wire import Exchange, Failure

USAGE = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
GENERATE = Ask(Task.GENERATE)


def event(data: Any, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def exchanged(*pieces: bytes, status: int = 200) -> Exchange:
    """The n-th piece came n seconds after the request was intended."""
    timed = [(10.0 + place, piece) for place, piece in enumerate(pieces, 1)]
    return Exchange(10.0, 10.5, 10.0 + len(pieces), status, None, timed)


def stream(*pieces: bytes, api: Api = Api.LMAAS) -> Outcome:
    return read(exchanged(*pieces), GENERATE, api)


def tokens(*ids: int) -> bytes:
    return event({"choices": [{"index": 0, "text": "x", "token_ids": ids}], "usage": None})


def text(value: str, **more: Any) -> bytes:
    return event({"choices": [{"index": 0, "text": value}], **more})


LAST = event({"choices": [], "usage": USAGE})
DONE = event("[DONE]")


def test_tokens_are_counted_by_their_ids() -> None:
    outcome = stream(tokens(7), tokens(8, 9), tokens(), tokens(1) + LAST)
    assert outcome.error is None
    assert outcome.arrivals == [(11.0, 1), (12.0, 2), (14.0, 1)]
    assert (outcome.tokens, outcome.prompt_tokens, outcome.counted_by) == (4, 5, "ids")
    assert outcome.seconds == 4.0


def test_openai_one_event_for_each_token() -> None:
    usage = event({"choices": [], "usage": USAGE})
    # Half a character has no text of its own, and is a token all the same.
    outcome = stream(text("a", usage=None), text(""), text("é"), text("b") + usage, DONE, api=Api.OPENAI)
    assert outcome.error is None
    assert outcome.arrivals == [(11.0, 1), (12.0, 1), (13.0, 1), (14.0, 1)]
    assert (outcome.prompt_tokens, outcome.counted_by) == (5, "usage")


def test_openai_tokens_shared_by_text() -> None:
    usage = event({"choices": [], "usage": USAGE})
    outcome = stream(text("ab"), text("abcdef"), text(""), usage + DONE, api=Api.OPENAI)
    assert outcome.arrivals == [(11.0, 1.5), (12.0, 2.5)]  # one each, and of two more a quarter and the rest


def test_openai_without_usage_counts_events_and_says_so() -> None:
    outcome = stream(text("a"), text("b"), DONE, api=Api.OPENAI)
    assert (outcome.tokens, outcome.counted_by, outcome.error) == (2, "events", None)


@pytest.mark.parametrize(
    ("pieces", "api"), [([tokens(7)], Api.LMAAS), ([text("a"), LAST], Api.OPENAI), ([], Api.LMAAS)]
)
def test_a_stream_without_its_end(pieces: list[bytes], api: Api) -> None:
    assert stream(*pieces, api=api).error == INCOMPLETE


def test_an_error_inside_a_stream() -> None:
    problem = event({"type": "/docs#deadline", "status": 504}, "error")
    assert stream(tokens(7), problem).error == "in stream: deadline"
    openai = event({"error": {"message": "no", "type": "server_error", "code": None}})
    assert stream(text("a"), openai, api=Api.OPENAI).error == "in stream: server_error"


def test_whole_answers() -> None:
    answer = json.dumps({"choices": [], "usage": USAGE}).encode()
    outcome = read(exchanged(answer[:9], answer[9:]), Ask(Task.GENERATE, stream=False), Api.LMAAS)
    assert (outcome.arrivals, outcome.counted_by) == ([(12.0, 4)], "usage")
    head = read(exchanged(b'{"results": [{"label": "positive"}]}'), Ask(Task.CLASSIFY), Api.LMAAS)
    assert (head.error, head.arrivals, head.seconds) == (None, [], 1.0)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"results": []}', b'{"other": 1}', b"[]"])
def test_an_answer_that_is_none(body: bytes) -> None:
    error = read(exchanged(body), Ask(Task.NLU), Api.LMAAS).error
    assert error is not None
    assert error.startswith("unreadable answer")


def test_failures_and_statuses_are_kinds() -> None:
    assert read(Exchange(0, failure=Failure.TIMEOUT), GENERATE, Api.LMAAS).error == "timeout"
    problem = b'{"type": "/docs#overloaded", "title": "Too Many Requests", "status": 429}'
    assert read(exchanged(problem, status=429), GENERATE, Api.LMAAS).error == "429 overloaded"
    assert read(exchanged(b"<html>", status=502), GENERATE, Api.LMAAS).error == "502"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error": {"type": "invalid_request_error", "code": "model_not_found"}}', "model_not_found"),
        (b'{"error": {"type": "invalid_request_error", "code": null}}', "invalid_request_error"),
        (b'{"error": "text"}', ""),
        (b"null", ""),
        (b"", ""),
    ],
)
def test_kinds_of_problems(body: bytes, kind: str) -> None:
    assert problem_kind(body) == kind


STREAM = (
    b'data: {"a": 1}\n\n: ping\n\nevent: error\ndata: {"b": 2}\n\n'
    b"data:first\r\ndata: second\r\n\r\nid: 4\ndata: [DONE]\n\ndata: cut off"
)
FOUND = [
    ("message", b'{"a": 1}'),
    ("error", b'{"b": 2}'),
    ("message", b"first\nsecond"),
    ("message", b"[DONE]"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_wherever_they_are_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [(float(end), STREAM[begin:end]) for begin, end in pairwise(places)]
    found = list(events(pieces))
    assert [(event.name, event.data) for event in found] == FOUND


def test_an_event_came_when_its_end_came() -> None:
    pieces = [(1.0, b"data: a\n\ndata: b"), (2.0, b"\n"), (3.0, b"\ndata: c\n\ndata: d\n\n")]
    assert list(events(pieces)) == [
        Event(1.0, "message", b"a"),
        Event(3.0, "message", b"b"),
        Event(3.0, "message", b"c"),
        Event(3.0, "message", b"d"),
    ]
