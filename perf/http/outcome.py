"""The outcome of an exchange: when its tokens arrived, or the kind of its error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from perf.http.ask import Api, Ask, Task
from perf.http.wire import Exchange

DONE = b"[DONE]"
INCOMPLETE = "stream without an end"


@dataclass(slots=True)
class Outcome:
    """Times as in Exchange. `error` is None where the answer is whole."""

    intended: float
    sent: float
    ended: float
    error: str | None = None
    # Time and tokens of each event that carries tokens.
    arrivals: list[tuple[float, float]] = field(default_factory=list)
    prompt_tokens: int | None = None
    counted_by: str | None = None  # "ids", "usage" or "events": how tokens were counted

    @property
    def tokens(self) -> float:
        return sum(count for _, count in self.arrivals)

    @property
    def seconds(self) -> float:
        return self.ended - self.intended


def read(exchange: Exchange, ask: Ask, api: Api) -> Outcome:
    """Read an answer. One that is not as the API promises is an error of a separate kind."""
    outcome = Outcome(exchange.intended, exchange.sent, exchange.ended)
    if exchange.failure is not None:
        outcome.error = exchange.failure.value
    elif exchange.status >= 400:
        body = b"".join(piece for _, piece in exchange.pieces)
        outcome.error = f"{exchange.status} {problem_kind(body)}".strip()
    else:
        try:
            _read_answer(exchange, ask, api, outcome)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            outcome.error = f"unreadable answer: {type(error).__name__}"
    return outcome


def problem_kind(body: bytes) -> str:
    """The type of a problem document (RFC 9457), or OpenAI's code; nothing where the body is neither."""
    try:
        return _kind(json.loads(body))
    except (ValueError, TypeError, AttributeError):
        return ""


def _kind(problem: dict[str, Any]) -> str:
    if slug := str(problem.get("type", "")).rpartition("#")[2]:
        return slug
    error = problem.get("error")
    return str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""


def _read_answer(exchange: Exchange, ask: Ask, api: Api, outcome: Outcome) -> None:
    if ask.streamed:
        reader = _read_openai_stream if api is Api.OPENAI else _read_stream
        reader(events(exchange.pieces), outcome)
        return
    answer = json.loads(b"".join(piece for _, piece in exchange.pieces))
    if ask.task is Task.GENERATE:
        usage = answer["usage"]
        outcome.arrivals.append((exchange.ended, usage["completion_tokens"]))
        outcome.prompt_tokens = usage["prompt_tokens"]
        outcome.counted_by = "usage"
    elif not answer["results"]:
        raise ValueError("an answer without results")


def _read_stream(stream: Iterator[Event], outcome: Outcome) -> None:
    """LMaaS: every event has its token ids, the last one the usage."""
    outcome.error, outcome.counted_by = INCOMPLETE, "ids"
    for event in stream:
        data = json.loads(event.data)
        if event.name == "error":
            outcome.error = f"in stream: {_kind(data)}"
            return
        if count := sum(len(choice["token_ids"]) for choice in data["choices"]):
            outcome.arrivals.append((event.time, count))
        if data["usage"] is not None:
            outcome.prompt_tokens = data["usage"]["prompt_tokens"]
            outcome.error = None


def _read_openai_stream(stream: Iterator[Event], outcome: Outcome) -> None:
    """OpenAI: events have text alone; the usage at the end says how many tokens they all were."""
    outcome.error = INCOMPLETE
    sizes: list[tuple[float, int]] = []
    usage = None
    for event in stream:
        if event.data == DONE:
            outcome.error = None
            break
        data = json.loads(event.data)
        if "error" in data:
            outcome.error = f"in stream: {_kind(data)}"
            return
        if data["choices"]:
            sizes.append((event.time, sum(len(choice["text"]) for choice in data["choices"])))
        usage = data.get("usage") or usage
    outcome.counted_by = "usage" if usage else "events"
    outcome.prompt_tokens = usage["prompt_tokens"] if usage else None
    outcome.arrivals = _spread(sizes, usage["completion_tokens"] if usage else len(sizes))


def _spread(sizes: list[tuple[float, int]], tokens: int) -> list[tuple[float, float]]:
    """The tokens of a stream over its events, which are known by their characters."""
    if len(sizes) == tokens:  # a token may have no text: half a character, or a special one
        return [(time, 1) for time, _ in sizes]
    with_text = [(time, size) for time, size in sizes if size]
    least = min(1.0, tokens / max(1, len(with_text)))  # text takes a token at least
    share = (tokens - least * len(with_text)) / max(1, sum(size for _, size in with_text))
    return [(time, least + size * share) for time, size in with_text if tokens]


class Event(NamedTuple):
    time: float
    name: str
    data: bytes


def events(pieces: Iterable[tuple[float, bytes]]) -> Iterator[Event]:
    """Server-sent events out of the pieces of a body, each with the time at which it was whole.

    WHATWG HTML, section 9.2 "Server-sent events", gives the format; lines may end in LF or CRLF. Comments are
    left out, and so is an unfinished event at the end of the body.
    """
    rest = b""
    name, data = "message", list[bytes]()
    for time, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            label, _, value = line.removesuffix(b"\r").partition(b":")
            value = value.removeprefix(b" ")
            if label == b"data":
                data.append(value)
            elif label == b"event":
                name = value.decode(errors="replace")
            elif not label and not value:
                if data:
                    yield Event(time, name, b"\n".join(data))
                name, data = "message", []
