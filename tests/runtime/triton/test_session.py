"""Sessions in a real Triton: requests are submitted and cancelled by name, and answered over one request."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from runtime.commands import MAX_SESSION_NAME, Command, Submit, encode, join
from runtime.contract import Fault, FaultCode, Operation
from tests.runtime.triton.clients import TIMEOUT_SECONDS, Failed, Server, Stream

DETAILS = ("details",)
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 80, "ignore_eos": True}
LONG: dict[str, Any] = {"max_tokens": 90, "n": 16, "ignore_eos": True}
Message = Any  # the details of an answer, or a fault as text


def submission(
    text: str | list[int],
    parameters: Any = None,
    *,
    operation: Operation = Operation.GENERATE,
    stream: bool = False,
) -> Submit:
    return Submit(text, operation, parameters or {}, stream)


@dataclass
class SessionClient:
    stream: Stream
    name: str
    accepted: int = 0  # requests with commands
    messages: dict[int, list[Message]] = field(default_factory=dict)

    def submit(self, key: int, text: str | list[int], parameters: Any = None, **options: Any) -> None:
        self.send((key, submission(text, parameters, **options)))

    def cancel(self, *keys: int) -> None:
        self.send(*((key, None) for key in keys))

    def send(self, *commands: tuple[int, Command]) -> None:
        """In one request."""
        self.stream.send(join(encode(*command) for command in commands), of_request={"session": self.name})

    def receive(self) -> None:
        """One response; raises Failed."""
        outputs, final = self.stream.next()
        if not outputs:
            assert final
            self.accepted += 1
            return
        assert not final
        for key, message in json.loads(outputs["details"][0]):
            self.messages.setdefault(key, []).append(message)

    def receive_until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self.receive()

    def answers(self, *keys: int) -> list[list[Message]]:
        """All messages of each of these requests."""
        self.receive_until(lambda: all(self.is_over(key) for key in keys))
        return [self.messages[key] for key in keys]

    def is_over(self, key: int) -> bool:
        last = self.messages.get(key, [{"usage": None}])[-1]
        return isinstance(last, str) or last["usage"] is not None


@contextmanager
def session(server: Server, name: str) -> Iterator[SessionClient]:
    with server.connect() as stream:
        try:
            stream.send("", outputs=DETAILS, of_request={"session": name})
            yield SessionClient(stream, name)
        finally:
            stream.cancel()  # else the client would wait for the end of the session


def own_stream(server: Server, text: str, parameters: Any, **options: Any) -> list[Message]:
    responses = server.ask(text, parameters, outputs=DETAILS, **options)
    return [json.loads(outputs["details"][0]) for outputs in responses]


def text_of(answers: list[Message]) -> str:
    return "".join(choice["text"] for answer in answers for choice in answer["choices"])


def await_metrics(server: Server, condition: Callable[[dict[str, float]], bool]) -> None:
    """Metrics are reported every second."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while not condition(found := server.metrics()):
        assert time.monotonic() < end, str(found)


def is_idle(metrics: dict[str, float]) -> bool:
    return metrics["running"] == metrics["waiting"] == metrics["kv_tokens_used"] == 0


def test_all_answers_of_each_request_come_over_the_session_in_order(server: Server) -> None:
    prompts = {7: "the cat", 9: "a dog", -2: "the sun"}
    with session(server, "answers") as client:
        for key, text in prompts.items():
            client.submit(key, text, GREEDY, stream=True)
        answers = client.answers(*prompts)
        client.receive_until(lambda: client.accepted == len(prompts))
    for text, found in zip(prompts.values(), answers, strict=True):
        plain = own_stream(server, text, GREEDY, stream=True)
        assert [answer["usage"] for answer in found] == [None] * (len(found) - 1) + [plain[-1]["usage"]]
        assert text_of(found) == text_of(plain)
        assert set(found[-1]) == set(plain[-1])


def test_a_whole_answer_is_one_message_for_each_operation(server: Server) -> None:
    with session(server, "whole") as client:
        client.submit(1, "the cat", GREEDY)
        client.submit(2, "the cat", {"top_k": 3}, operation=Operation.NEXT)
        client.submit(3, "the cat", {"continuations": [" sat"]}, operation=Operation.SCORE)
        (generated,), (listed,), (scored,) = client.answers(1, 2, 3)
    assert generated["choices"] == own_stream(server, "the cat", GREEDY)[0]["choices"]
    assert len(listed["candidates"]) == 3
    assert len(scored["scores"]) == 1


def test_triton_s_own_request_ends_when_it_is_accepted(server: Server) -> None:
    with session(server, "accepted") as client:
        client.submit(1, "the cat", LONG)
        client.receive_until(lambda: client.accepted)
        assert client.messages == {}
        assert len(client.answers(1)[0][0]["choices"]) == 16


def test_what_is_refused_fails_by_itself_and_the_session_goes_on(server: Server) -> None:
    with session(server, "refused") as client:
        refused = submission("x", {"no_such": 1}, stream=True)
        client.send((1, refused), (2, submission("the cat", GREEDY, stream=True)), (3, refused))
        (first,), answers, (third,) = client.answers(1, 2, 3)
        client.submit(1, "the cat", GREEDY)
        client.receive_until(lambda: len(client.messages[1]) == 2)
    for message in (first, third):
        assert Fault.decode(message).field == "no_such"  # type: ignore[union-attr]
    assert text_of(answers) == text_of(own_stream(server, "the cat", GREEDY))


def test_a_request_that_fails_later_has_its_fault_as_its_last_message(server: Server) -> None:
    with session(server, "late") as client:
        client.submit(1, "the cat", {**LONG, "seed": 1, "deadline_ms": 30}, stream=True)
        client.submit(2, "the cat", GREEDY, stream=True)
        late, well = client.answers(1, 2)
    fault = Fault.decode(late[-1])
    assert fault is not None
    assert fault.field == "deadline_ms"
    assert not any(isinstance(message, str) for message in late[:-1])
    assert text_of(well) == text_of(own_stream(server, "the cat", GREEDY))


def test_one_request_is_cancelled_and_the_others_are_not(server: Server) -> None:
    before = server.metrics()["sequences_finished_total:cancelled"]
    with session(server, "cancel") as client:
        # In one request, so that the engine cannot have ended it before.
        client.send(
            (1, submission("the cat", LONG, stream=True)),
            (2, submission("the cat", GREEDY, stream=True)),
            (1, None),
        )
        client.cancel(1, 99)  # nothing has these keys now: nothing happens
        cancelled, other = client.answers(1, 2)
        client.receive_until(lambda: client.accepted == 2)
    assert cancelled[-1].startswith("cancelled: ")
    assert text_of(other) == text_of(own_stream(server, "the cat", GREEDY))
    await_metrics(server, lambda now: now["sequences_finished_total:cancelled"] > before and is_idle(now))


def test_a_client_that_leaves_frees_the_places_of_all_its_requests(server: Server) -> None:
    before = server.metrics()["sequences_finished_total:cancelled"]
    with session(server, "left") as client:
        for key in range(14):
            client.submit(key, "the cat", LONG, stream=key % 2 == 0)
        client.receive_until(lambda: client.accepted == 14)
    # Some sequences may have ended by themselves before the engine learned of it: all would take seconds.
    await_metrics(
        server,
        lambda now: now["sequences_finished_total:cancelled"] > before + 2 * LONG["n"] and is_idle(now),
    )


def test_the_defaults_of_sampling_hold_in_a_session(server: Server) -> None:
    with session(server, "defaults") as client:
        client.submit(1, "the cat")
        ((answer,),) = client.answers(1)
    assert answer["usage"]["completion_tokens"] > 0


def test_a_name_and_a_key_are_used_once_at_a_time(server: Server) -> None:
    with session(server, "mine") as client:
        client.submit(1, "the cat", LONG)
        client.send((2, submission("a")), (1, submission("b")))
        with pytest.raises(Failed, match="key 1 is in use in this session"):
            client.receive_until(lambda: client.accepted == 2)
        client.send((3, submission("a")), (3, None), (3, submission("b")))
        with pytest.raises(Failed, match="key 3 is in use in this session"):
            client.receive_until(lambda: client.accepted == 2)
        with pytest.raises(Failed, match=r"\[session\]: mine is open already"):
            server.ask("", outputs=DETAILS, of_request={"session": "mine"})
        client.answers(1)
        client.submit(1, "the cat", GREEDY)
        client.receive_until(lambda: len(client.messages[1]) == 2)
        assert not {2, 3} & client.messages.keys()  # none of their commands was carried out


def test_token_ids_are_a_prompt(server: Server) -> None:
    with session(server, "ids") as client:
        client.send((1, submission([1, 2, 3], GREEDY)), (2, submission([1, 10**9], GREEDY)))
        (answer,), (refused,) = client.answers(1, 2)
    assert answer["usage"]["prompt_tokens"] == 3
    assert Fault.decode(refused).code is FaultCode.INVALID_ARGUMENT  # type: ignore[union-attr]


def test_a_session_that_is_not_open_takes_no_request(server: Server) -> None:
    commands = join([encode(1, submission("the cat", GREEDY))])
    with pytest.raises(Failed, match="unavailable: the session is not open"):
        server.ask(commands, of_request={"session": "nowhere"})
    with session(server, "briefly") as client:
        client.submit(1, "the cat", GREEDY)
        client.answers(1)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    with server.connect() as stream:
        refused = False
        while not refused:
            assert time.monotonic() < deadline
            stream.send(commands, of_request={"session": "briefly"})
            try:
                stream.next()
            except Failed as failure:
                refused = "the session is not open" in str(failure)
    with session(server, "briefly") as client:
        client.submit(1, "the cat", GREEDY)
        client.answers(1)


@pytest.mark.parametrize("name", ["", "x" * (MAX_SESSION_NAME + 1), 5])
def test_a_bad_name_is_refused(server: Server, name: str | int) -> None:
    with pytest.raises(Failed) as caught:
        server.ask("", outputs=DETAILS, of_request={"session": name})
    assert f"[session]: a string of 1 to {MAX_SESSION_NAME} characters is needed" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("the cat", "not JSON"),
        ("{}", "a JSON array of commands is needed"),
        ("[5]", "'5' is no command"),
        ('[["1", null]]', "is no command"),
        ("[[1, {}]]", "is no command"),
        ('[[1, {"prompt": 5, "operation": "next", "parameters": {}, "stream": false}]]', "is no command"),
        ('[[1, {"prompt": [1.5], "operation": "next", "parameters": {}, "stream": false}]]', "is no command"),
        ('[[1, {"prompt": "", "operation": "sing", "parameters": {}, "stream": false}]]', "is no command"),
        ('[[1, {"prompt": "", "operation": "next", "parameters": [], "stream": false}]]', "is no command"),
        (
            '[[1, {"prompt": "", "operation": "next", "parameters": {}, "stream": false, "more": 1}]]',
            "is no command",
        ),
        ('[[1, null], [1, {"prompt": "\\ud800"}]]', "a lone surrogate"),
    ],
)
def test_what_is_no_command_is_refused(server: Server, text: str, complaint: str) -> None:
    with session(server, uuid.uuid4().hex) as client:
        client.stream.send(text, of_request={"session": client.name})
        with pytest.raises(Failed) as caught:
            client.receive()
        assert "[text_input]: " in str(caught.value)
        assert complaint in str(caught.value)
        client.submit(1, "the cat", GREEDY)
        assert client.answers(1)
