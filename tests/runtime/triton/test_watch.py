"""The watch over requests under way, without a server: senders that Triton no longer answers."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest

from api.back.cluster.installation import Installation
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
