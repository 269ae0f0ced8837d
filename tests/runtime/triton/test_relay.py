"""Relays in a real Triton: where the answers of a stream go that names one, and what becomes of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runtime.contract import MAX_RELAY_NAME
from tests.runtime.triton.clients import TIMEOUT_SECONDS, Failed, Outputs, Server, Stream

DETAILS = ("details",)
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 80, "ignore_eos": True}
Details = dict[str, Any]


def details(outputs: Outputs) -> Any:
    return json.loads(outputs["details"][0])


@contextmanager
def relay(server: Server, name: str) -> Iterator[Stream]:
    with server.stream("", outputs=DETAILS, of_request={"relay": name}) as stream:
        try:
            assert details(stream.next()[0]) == []
            yield stream
        finally:
            stream.cancel()  # its client would wait for the end


def pieces(stream: Stream, counts: dict[int, int]) -> dict[int, list[Details]]:
    """As many of each key as `counts` says, among those of others."""
    found: dict[int, list[Details]] = {key: [] for key in counts}
    while any(len(found[key]) < count for key, count in counts.items()):
        for key, piece in details(stream.next()[0]):
            found.setdefault(key, []).append(piece)
    return {key: found[key] for key in counts}


def ask(server: Server, text: str, **of_request: str | int) -> list[Details]:
    responses = server.ask(text, GREEDY, stream=True, outputs=DETAILS, of_request=of_request)
    return [details(outputs) for outputs in responses]


def text_of(answers: list[Details]) -> str:
    return "".join(choice["text"] for answer in answers for choice in answer["choices"])


def test_all_but_the_last_of_each_stream_go_to_the_relay(server: Server) -> None:
    prompts = {7: "the cat", 9: "a dog"}
    plain = {key: ask(server, text) for key, text in prompts.items()}
    with relay(server, "pieces") as opened:
        own = {key: ask(server, text, relay="pieces", relay_key=key) for key, text in prompts.items()}
        relayed = pieces(opened, {key: answers[0]["relayed"] for key, answers in own.items()})
    for key, answers in plain.items():
        (last,) = own[key]
        assert last["usage"] == answers[-1]["usage"]
        assert all(piece["usage"] is None for piece in relayed[key])
        assert text_of([*relayed[key], last]) == text_of(answers)


def test_without_the_relay_that_it_names_a_stream_has_all_itself(server: Server) -> None:
    answers = ask(server, "the cat", relay="nowhere", relay_key=1)
    assert len(answers) > 1
    assert "relayed" not in answers[-1]
    assert text_of(answers) == text_of(ask(server, "the cat"))


def test_other_outputs_than_details_are_not_relayed(server: Server) -> None:
    with relay(server, "details only"):
        options = {
            "outputs": ("text_output", "details"),
            "of_request": {"relay": "details only", "relay_key": 1},
        }
        responses = server.ask("the cat", GREEDY, stream=True, **options)
    text = b"".join(item["text_output"][0] for item in responses).decode()
    assert text == text_of([details(item) for item in responses]) == text_of(ask(server, "the cat"))


def test_a_request_that_fails_does_so_itself(server: Server) -> None:
    with relay(server, "faults"), pytest.raises(Failed, match="no_such"):
        server.ask(
            "x", {"no_such": 1}, stream=True, outputs=DETAILS, of_request={"relay": "faults", "relay_key": 1}
        )
    assert ask(server, "the cat")


def test_a_request_that_fails_once_it_streams_does_so_itself_too(server: Server) -> None:
    parameters = {"max_tokens": 90, "n": 16, "temperature": 1, "seed": 1, "deadline_ms": 30}
    place: dict[str, str | int] = {"relay": "late", "relay_key": 1}
    with relay(server, "late") as opened:
        with pytest.raises(Failed, match="deadline"):
            server.ask("the cat", {**GREEDY, **parameters}, stream=True, outputs=DETAILS, of_request=place)
        (last,) = ask(server, "the cat", relay="late", relay_key=2)
        assert len(pieces(opened, {2: last["relayed"]})[2]) == last["relayed"]


def test_the_defaults_of_sampling_hold_beside_a_relay(server: Server) -> None:
    with relay(server, "defaults"):
        place: dict[str, str | int] = {"relay": "defaults", "relay_key": 1}
        (last,) = server.ask("the cat", stream=True, outputs=DETAILS, of_request=place)
    assert details(last)["usage"]["completion_tokens"] > 0


def test_one_name_is_one_relay_until_it_is_cancelled(server: Server) -> None:
    with relay(server, "mine"):
        with pytest.raises(Failed, match="mine is open already"):
            server.ask("", outputs=DETAILS, of_request={"relay": "mine"})
        assert "relayed" in ask(server, "the cat", relay="mine", relay_key=1)[-1]
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while "relayed" in ask(server, "the cat", relay="mine", relay_key=1)[-1]:
        assert time.monotonic() < deadline
    with relay(server, "mine"):
        assert "relayed" in ask(server, "the cat", relay="mine", relay_key=1)[-1]


@pytest.mark.parametrize(
    ("of_request", "complaint"),
    [
        ({"relay": ""}, f"[relay]: a string of 1 to {MAX_RELAY_NAME} characters is needed"),
        (
            {"relay": "x" * (MAX_RELAY_NAME + 1)},
            f"[relay]: a string of 1 to {MAX_RELAY_NAME} characters is needed",
        ),
        ({"relay": 5}, f"[relay]: a string of 1 to {MAX_RELAY_NAME} characters is needed"),
        ({"relay": "x", "relay_key": "y"}, "[relay_key]: an integer is needed"),
    ],
)
def test_bad_parameters_are_named(server: Server, of_request: dict[str, str | int], complaint: str) -> None:
    with pytest.raises(Failed) as caught:
        server.ask("the cat", GREEDY, stream=True, outputs=DETAILS, of_request=of_request)
    assert complaint in str(caught.value)
