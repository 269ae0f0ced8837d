"""The core step by step: what a command or a failure does before and after the next step."""

from __future__ import annotations

import gc
import logging
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.config import EngineConfig
from runtime.contract import (
    GRAPH_FILE,
    TOKENIZER_FILE,
    Fault,
    FaultCode,
    FinishReason,
    Manifest,
    Operation,
    Variant,
)
from runtime.core import EngineCore
from runtime.live import Event, FaultEvent, LiveRequest, TokenEvent
from runtime.planning import Planner
from runtime.request import parse_request
from runtime.scheduler import Batch
from runtime.session import LmSession
from runtime.text import Tokenizer
from tests.runtime.engines import Collector

CANCELLED = Fault(FaultCode.CANCELLED, "cancelled by the test")


class FailingSession(LmSession):
    """Raises instead of running, as often as `failures` says; puts `spoiled` into what it answers."""

    failures = 0
    spoiled: float | None = None

    def run(self, batch: Batch) -> NDArray[np.float32]:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("injected")
        rows = super().run(batch)
        if self.spoiled is not None:
            rows[:, 1] = self.spoiled
        return rows


class Bench:
    """A core over the tiny model."""

    def __init__(self, artifact: Path, **values: int) -> None:
        manifest = Manifest.load(artifact)
        self.session = FailingSession(artifact / "fp32" / GRAPH_FILE, 1)
        self.left: list[str] = []
        self.config = EngineConfig(Variant.FP32, **values)
        self.core = EngineCore(
            self.session,
            manifest.architecture,
            self.config,
            lambda live: self.left.append(live.request.request_id),
        )
        tokenizer = Tokenizer(artifact / TOKENIZER_FILE, manifest.architecture.eos_token_id)
        self._planner = Planner(tokenizer, manifest.architecture)

    def add(
        self, request_id: str, text: str, operation: Operation = Operation.GENERATE, **parameters: Any
    ) -> LiveRequest:
        request = parse_request(request_id, text, operation, parameters, stream=False)
        live = self._planner.plan(request, Collector())
        self.core.add(live)
        return live

    def run(self) -> list[Event]:
        events = []
        while self.core.has_work:
            events += self.core.step()
            self.core.check_integrity()
        return events


@pytest.fixture
def bench(lm_artifact: Path) -> Bench:
    return Bench(lm_artifact, num_slots=2, prefill_chunk=4)


LONG: dict[str, Any] = {"max_tokens": 50, "ignore_eos": True}


def test_cancelling_frees_the_slot_before_the_next_step(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.add(name, "the cat", **LONG)
    for _ in range(4):
        bench.core.step()
    assert bench.core.scheduler.num_running == 2
    bench.core.abort("a", CANCELLED)
    assert bench.core.scheduler.num_running == 1
    events = bench.core.step()
    assert bench.core.scheduler.num_running == 2, "the waiting request has the slot now"
    assert [event.fault for event in events if isinstance(event, FaultEvent)] == [CANCELLED]
    assert {event.live.request.request_id for event in bench.run()} == {"b", "c"}
    assert bench.left == ["a", "b", "c"]


def test_cancelling_in_the_middle_of_a_prefill(bench: Bench) -> None:
    bench.add("a", "the little cat sat on the mat and the dog ran home", **LONG)
    bench.core.step()
    bench.core.abort("a", CANCELLED)
    assert bench.core.scheduler.num_running == 0
    assert [type(event) for event in bench.run()] == [FaultEvent]


def test_a_failing_step_fails_the_requests_in_it_and_no_other(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c", "d"):
        bench.add(name, f"the {name}", max_tokens=5, ignore_eos=True)
    while bench.core.scheduler.num_running < 2:
        bench.core.step()
    bench.core.step()
    bench.session.failures = 1
    with caplog.at_level(logging.ERROR):
        events = bench.run()
    failed = {event.live.request.request_id for event in events if isinstance(event, FaultEvent)}
    finished = {
        event.live.request.request_id for event in events if isinstance(event, TokenEvent) and event.reason
    }
    assert failed
    assert failed.isdisjoint(finished)
    assert failed | finished == {"a", "b", "c", "d"}
    assert "injected" in caplog.text
    codes = {event.fault.code for event in events if isinstance(event, FaultEvent)}
    assert codes == {FaultCode.INTERNAL}


@pytest.mark.parametrize("spoiled", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("operation", list(Operation))
def test_outputs_that_are_no_numbers_fail_the_request(
    bench: Bench, operation: Operation, spoiled: float
) -> None:
    parameters = {"continuations": ["the"]} if operation is Operation.SCORE else {}
    bench.session.spoiled = spoiled
    bench.add("a", "the cat sat", operation, **parameters)
    (event,) = bench.run()
    assert isinstance(event, FaultEvent)
    assert (event.fault.code, "not finite" in event.fault.message) == (FaultCode.INTERNAL, True)


def test_after_a_failed_step_answers_are_right(bench: Bench) -> None:
    good = tokens_of(bench, "x", "the cat sat")
    bench.add("y", "the cat sat", **LONG)
    bench.core.step()
    bench.session.failures = 1
    bench.run()
    assert tokens_of(bench, "z", "the cat sat") == good


def test_books_found_wrong_are_begun_anew(bench: Bench) -> None:
    good = tokens_of(bench, "x", "the cat sat")
    bench.add("y", "the cat sat", **LONG)
    bench.core.step()
    bench.core.reset(Fault(FaultCode.INTERNAL, "wrong"))
    assert [type(event) for event in bench.run()] == [FaultEvent]
    assert tokens_of(bench, "z", "the cat sat") == good


def test_a_late_stop_is_no_error(bench: Bench) -> None:
    live = bench.add("a", "the cat", max_tokens=1)
    bench.run()
    bench.core.stop(live, 0)
    bench.core.abort("a", CANCELLED)
    assert not bench.core.has_work
    assert bench.core.counters.finished[FinishReason.CANCELLED] == 0


def test_requests_that_are_over_are_not_kept_for_their_deadline(bench: Bench) -> None:
    lives = [
        weakref.ref(bench.add(str(number), "a", max_tokens=1, deadline_ms=60_000)) for number in range(60)
    ]
    bench.run()
    bench.add("last", "a", max_tokens=1, deadline_ms=60_000)
    gc.collect()
    assert [live() for live in lives] == [None] * 60


texts = st.sampled_from(["a", "the", "the cat", "the cat sat on the mat", "the dog ran home", "it rains"])
requests = st.tuples(
    st.just("add"), texts, st.sampled_from(list(Operation)), st.integers(1, 6), st.integers(1, 3)
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=st.lists(
        st.one_of(requests, st.tuples(st.just("abort"), st.integers(0, 9)), st.tuples(st.just("step"))),
        max_size=25,
    )
)
def test_any_history_gives_every_request_one_outcome(
    lm_artifact: Path, history: list[tuple[object, ...]]
) -> None:
    bench = Bench(lm_artifact, num_slots=2, prefill_chunk=3)
    lives: list[LiveRequest] = []
    events: list[Event] = []
    for action in history:
        match action:
            case ("add", str() as text, Operation() as operation, int() as tokens, int() as n):
                parameters: dict[Operation, dict[str, Any]] = {
                    Operation.GENERATE: {"max_tokens": tokens, "n": n, "echo": True, "logprobs": n},
                    Operation.SCORE: {"continuations": [" sat"] * n},
                }
                lives.append(bench.add(str(len(lives)), text, operation, **parameters.get(operation, {})))
            case ("abort", int() as number):
                bench.core.abort(str(number), CANCELLED)
            case _:
                events += bench.core.step()
        bench.core.check_integrity()
    events += bench.run()
    assert sorted(bench.left) == sorted(live.request.request_id for live in lives)
    for live in lives:
        assert live.closed
        assert live.is_done
        faults = [event for event in events if isinstance(event, FaultEvent) and event.live is live]
        cancelled = any(s.finish_reason is FinishReason.CANCELLED for s in live.sequences)
        assert len(faults) == cancelled
    assert bench.core.cache.num_tokens == 0


def tokens_of(bench: Bench, request_id: str, text: str) -> list[int]:
    bench.add(request_id, text, max_tokens=8, temperature=0, ignore_eos=True)
    return [event.sampled.token_id for event in bench.run() if isinstance(event, TokenEvent)]
