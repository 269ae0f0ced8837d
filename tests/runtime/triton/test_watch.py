"""The watch over requests under way, without a server: senders that Triton no longer answers."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any

import pytest

from api.back.cluster.installation import Installation
from api.back.cluster.probe import WORK_SECONDS
from runtime.engine import Engine
from runtime.errors import RequestFault
from runtime.messages import Generated, Usage


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
    adapter._asking_due = 0.0
    adapter._metrics_due = adapter._sessions_due = math.inf
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


class Counted(Sender):
    def __init__(self) -> None:
        super().__init__(False)
        self.times = 0

    def is_cancelled(self) -> bool:
        self.times += 1
        return super().is_cancelled()


class Reports:
    def __init__(self) -> None:
        self.times: list[float] = []

    def report(self, stats: object) -> None:
        self.times.append(time.monotonic())


class Idle(Engine):
    def __init__(self) -> None:
        pass

    def stats(self) -> Any:
        return None


def test_hundreds_under_way_are_asked_seldom_and_slow_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prober takes an engine whose metrics stand still for a dead one."""
    monkeypatch.syspath_prepend(str(Installation.find().python_backend))
    from runtime.triton import lm

    assert lm.METRICS_SECONDS < WORK_SECONDS
    monkeypatch.setattr(lm, "METRICS_SECONDS", 0.05)
    monkeypatch.setattr(lm, "CANCEL_POLL_SECONDS", 0.01)
    monkeypatch.setattr(lm, "ASKED_PER_SECOND", 4)
    builder: Any = None
    metrics: Any = Reports()
    adapter = lm.LmAdapter.__new__(lm.LmAdapter)
    adapter._engine, adapter._metrics = Idle(), metrics
    adapter._closing = threading.Event()
    adapter._asking_due = adapter._metrics_due = 0.0
    adapter._sessions_due = math.inf
    senders = [Counted() for _ in range(400)]  # due every hundred seconds
    adapter._responses = {
        str(number): lm.LmResponses(sender, builder, lambda: None) for number, sender in enumerate(senders)
    }
    watch = threading.Thread(target=adapter._run_watch)
    watch.start()
    deadline = time.monotonic() + 30
    while len(metrics.times) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    adapter._closing.set()
    watch.join()
    assert len(metrics.times) >= 5
    assert [sender.times for sender in senders] == [1] * 400


class SessionSender:
    """A session's sender, which was cancelled; where it is `broken` it raises on everything."""

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


def test_a_session_that_fails_ends_and_aborts_its_requests_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Installation.find().python_backend))
    import triton_python_backend_utils as pb_utils

    from runtime.triton.session import Sessions

    monkeypatch.setattr(pb_utils, "Tensor", lambda name, array: array, raising=False)
    monkeypatch.setattr(pb_utils, "InferenceResponse", Response, raising=False)
    aborted: list[str] = []
    sessions, broken, whole = Sessions(aborted.append), SessionSender(), SessionSender()
    for name, sender in (("broken", broken), ("whole", whole)):
        sessions.open(name, sender)
        session = sessions.find(name)
        session.register(1, f"{name} 1").send(Generated(1, [], None, None), final=False)
        session.register(2, f"{name} 2").send(Generated(1, [], Usage.of(1, 0), None), final=True)
    broken.broken = True
    sessions.flush()
    assert (broken.sent, whole.sent) == (0, 1)
    assert aborted == ["broken 1"]
    with pytest.raises(RequestFault, match="the session is not open"):
        sessions.find("broken")
    broken.broken = False
    sessions.open("broken", broken)
    broken.broken = True
    sessions.end_cancelled()
    assert sessions.find("broken")  # whether it was cancelled is not known
    assert (whole.sent, aborted) == (2, ["broken 1", "whole 1"])
    with pytest.raises(RequestFault, match="the session is not open"):
        sessions.find("whole")
