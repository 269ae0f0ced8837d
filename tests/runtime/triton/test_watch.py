"""The watch over requests under way, without a server: senders that Triton no longer answers."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest

from api.back.cluster.installation import Installation
from runtime.answers import Generated
from runtime.engine import Engine


class Sender:
    def __init__(self, answer: bool | Exception) -> None:
        self.answer = answer

    def is_cancelled(self) -> bool:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Aborted(Engine):
    def __init__(self) -> None:
        self.request_ids: list[str] = []

    def abort(self, request_id: str) -> None:
        self.request_ids.append(request_id)


def test_one_sender_that_fails_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(Installation.find().python_backend))  # where Triton's Python API lies
    from runtime.triton.lm import LmAdapter, LmResponses

    engine = Aborted()
    builder: Any = None  # nothing is answered here
    adapter = LmAdapter.__new__(LmAdapter)  # its making needs a server
    adapter._engine = engine
    adapter._metrics_due = adapter._relays_due = math.inf
    answers: list[bool | Exception] = [False, RuntimeError("the request is gone"), True, True]
    adapter._responses = {
        str(number): LmResponses(Sender(answer), builder, lambda: None)
        for number, answer in enumerate(answers)
    }
    with caplog.at_level(logging.ERROR):
        adapter._look_around()
    assert engine.request_ids == ["2", "3"]
    assert [record.message for record in caplog.records] == [
        "request 1 could not be asked whether it was cancelled"
    ]


class Pipe:
    """A relay's sender, which was cancelled; where it is `broken` it raises on all that it is asked."""

    def __init__(self) -> None:
        self.broken = False
        self.sent = 0

    def send(self, *response: Any, flags: int = 0) -> None:
        if self.broken:
            raise RuntimeError("no shared memory")
        self.sent += 1

    def is_cancelled(self) -> bool:
        if self.broken:
            raise RuntimeError("no shared memory")
        return True


class Response:
    def __init__(self, output_tensors: list[Any]) -> None:
        self.output_tensors = output_tensors


def test_one_relay_that_fails_hides_no_other_and_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Installation.find().python_backend))
    import triton_python_backend_utils as pb_utils

    from runtime.triton.relay import Relays

    monkeypatch.setattr(pb_utils, "Tensor", lambda name, array: array, raising=False)
    monkeypatch.setattr(pb_utils, "InferenceResponse", Response, raising=False)
    relays, broken, whole = Relays(), Pipe(), Pipe()
    relays.open("broken", broken)
    relays.open("whole", whole)
    places = [relays.place(name, 1) for name in ("broken", "whole")]
    for place in places:
        assert place is not None
        assert place.take(Generated(1, [], None, None))
    broken.broken = True
    relays.flush()
    assert (broken.sent, whole.sent) == (1, 2)
    assert [place is not None and place.relay.over for place in places] == [True, False]
    assert relays.place("broken", 1) is None
    broken.broken = False
    relays.open("broken", broken)
    broken.broken = True
    relays.end_cancelled()
    assert relays.place("broken", 1) is not None  # nobody knows whether it was cancelled
    assert relays.place("whole", 1) is None
    assert whole.sent == 3
