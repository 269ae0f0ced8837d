"""The closed loop on an engine, with an engine that answers at once or fails."""

from __future__ import annotations

import threading
from itertools import count

import pytest

from bench.stack.in_process import EngineLoop
from perf.errors import LoadError
from perf.http.ask import Ask, Task
from perf.http.load import Extent
from runtime.contract import Fault, FaultCode
from runtime.engine import Engine
from runtime.messages import Choice, Generated
from runtime.request import Request
from runtime.request_state import Sink

ANSWER_SECONDS = 0.02
TOKENS = [5, 6, 7]


class Prompt(Engine):
    """Answers each request after a while with three tokens, or fails it."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault = fault
        self.requests: list[Request] = []
        self.under_way = self.most_under_way = 0

    def submit(self, request: Request, sink: Sink) -> None:
        self.requests.append(request)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        threading.Timer(ANSWER_SECONDS, self._answer, [sink]).start()

    def _answer(self, sink: Sink) -> None:
        self.under_way -= 1
        if self.fault is not None:
            sink.fail(self.fault)
            return
        choice = Choice(0, "", TOKENS, None, None, 0.0)
        sink.send(Generated(4, [choice], None, None), final=True)


def loop(engine: Engine) -> EngineLoop:
    ask = Ask(Task.GENERATE, max_tokens=3, ignore_eos=True)
    return EngineLoop(engine, ask, (f"text {number}" for number in count()), 7)


def test_so_many_streams_ask_again_and_again() -> None:
    engine = Prompt()
    rate = loop(engine).run(2, Extent(0.1, 0.5))
    most = 2 * len(TOKENS) / ANSWER_SECONDS
    assert 0 < rate <= 1.1 * most
    assert engine.most_under_way == 2
    ids = [request.request_id for request in engine.requests]
    assert len(set(ids)) == len(ids)
    assert len({request.text for request in engine.requests}) == len(ids)
    parameters = engine.requests[0].parameters
    assert (parameters.max_tokens, parameters.temperature, parameters.ignore_eos) == (3, 0, True)


def test_a_fault_ends_it() -> None:
    with pytest.raises(LoadError, match="in process: no room"):
        loop(Prompt(Fault(FaultCode.UNAVAILABLE, "no room"))).run(1, Extent(0, 5))
