"""The core step by step: what a command or a failure does before and after the next step."""

from __future__ import annotations

import gc
import logging
import time
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
from runtime.core import HEAD_START_SECONDS, EngineCore
from runtime.errors import RequestFault
from runtime.kv_cache import KEEP_SECONDS
from runtime.live import Event, FaultEvent, LiveRequest, TokenEvent
from runtime.planning import Planner
from runtime.queue_places import QueuePlaces
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

    def __init__(self, artifact: Path, **values: Any) -> None:
        manifest = Manifest.load(artifact)
        self.session = FailingSession(artifact / "fp32" / GRAPH_FILE, 1)
        self.places = QueuePlaces(1000, 100_000)
        self.config = EngineConfig(Variant.FP32, **values)
        self.core = EngineCore(
            self.session,
            manifest.architecture,
            self.config,
            self.places.leave,
        )
        tokenizer = Tokenizer(artifact / TOKENIZER_FILE, manifest.architecture.eos_token_id)
        self._planner = Planner(tokenizer, manifest.architecture, self.core.cache.capacity)

    def add(
        self,
        request_id: str,
        text: str,
        operation: Operation = Operation.GENERATE,
        *,
        stream: bool = False,
        **parameters: Any,
    ) -> LiveRequest:
        request = parse_request(request_id, text, operation, parameters, stream=stream)
        live = self._planner.plan(request, Collector())
        self.places.take(live)
        self.core.add(live)
        return live

    def run(self) -> list[Event]:
        events = []
        while self.core.has_work:
            events += self.core.step()
            self.core.check_integrity()
        self.places.check_empty()
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


def test_cancelling_in_the_middle_of_a_prefill(bench: Bench) -> None:
    bench.add("a", "the little cat sat on the mat and the dog ran home", **LONG)
    bench.core.step()
    bench.core.abort("a", CANCELLED)
    assert bench.core.scheduler.num_running == 0
    assert [type(event) for event in bench.run()] == [FaultEvent]


def test_a_first_token_gets_a_head_start_where_nobody_else_waits_for_a_step(bench: Bench) -> None:
    def head_starts(live: LiveRequest) -> list[float]:
        """After each step that gave the request a token."""
        found = []
        while bench.core.has_work:
            events = bench.core.step()
            if any(isinstance(event, TokenEvent) and event.live is live for event in events):
                found.append(bench.core.head_start)
        return found

    alone = bench.add("alone", "the cat", stream=True, max_tokens=3, ignore_eos=True)
    assert head_starts(alone) == [HEAD_START_SECONDS, 0.0, 0.0]
    bench.add("other", "the bird", stream=True, max_tokens=9, ignore_eos=True)
    among = bench.add("among", "the dog", stream=True, max_tokens=3, ignore_eos=True)
    assert head_starts(among) == [0.0, 0.0, 0.0]


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
    parameters: dict[str, Any] = {"continuations": ["the"]} if operation is Operation.SCORE else {}
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


def test_a_deadline_that_passed_in_the_queue_takes_no_slot(bench: Bench) -> None:
    for name in ("a", "b"):
        bench.add(name, "the cat", **LONG)
    for _ in range(4):
        bench.core.step()
    late = bench.add("late", "the dog", deadline_ms=60_000, **LONG)
    bench.core._deadlines[0] = (time.monotonic() - 1, *bench.core._deadlines[0][1:])
    bench.core.abort("a", CANCELLED)
    assert bench.core.scheduler.num_running == 1
    faults = [event.fault for event in bench.core.step() if isinstance(event, FaultEvent)]
    assert [fault.code for fault in faults] == [FaultCode.CANCELLED, FaultCode.DEADLINE_EXCEEDED]
    assert "(waiting)" in faults[1].message
    assert late.started is None
    assert len(bench.core.scheduler.queue) == 0


def test_siblings_keep_their_places_until_each_has_a_slot(bench: Bench) -> None:
    """Four of 2 tokens, of which two find a slot."""
    bench.add("a", "the cat", n=4, **LONG)
    assert (bench.places.num_taken, bench.places.num_tokens) == (1, 8)
    for _ in range(4):
        bench.core.step()
    assert (bench.places.num_taken, bench.places.num_tokens) == (1, 4)
    bench.core.abort("a", CANCELLED)
    bench.places.check_empty()


def test_requests_of_one_caller_do_not_hold_up_another_nor_the_urgent_ones(bench: Bench) -> None:
    for number in range(20):
        bench.add(f"flood {number}", "the cat", max_tokens=4, ignore_eos=True, caller="flood")
    bench.core.step()
    bench.add("single", "the dog", max_tokens=4, ignore_eos=True, caller="single")
    bench.add("urgent", "it rains", max_tokens=4, ignore_eos=True, caller="flood", priority=-1)
    ends = [
        event.live.request.request_id
        for event in bench.run()
        if isinstance(event, TokenEvent) and event.reason
    ]
    assert ends[:2] == ["flood 0", "urgent"]
    assert ends.index("single") <= 3


def test_the_cache_holds_no_more_than_it_may(lm_artifact: Path) -> None:
    bench = Bench(lm_artifact, num_slots=4, max_kv_tokens=40)
    for name in ("a", "b", "c"):
        bench.add(name, "the cat", max_tokens=14, ignore_eos=True)  # 16 each
    most = 0
    while bench.core.has_work:
        bench.core.step()
        bench.core.check_integrity()
        most = max(most, bench.core.cache.promised)
    assert most == 32
    with pytest.raises(RequestFault) as raised:
        bench.add("d", "the cat", max_tokens=39)
    expected = "2 prompt tokens + 39 = 41, but max_kv_tokens of this server allows 40"
    assert (raised.value.fault.field, raised.value.fault.message) == ("max_tokens", expected)
    with pytest.raises(RequestFault, match=r"text_input.*41 tokens, but max_kv_tokens of this server"):
        bench.add("e", "a" * 41, Operation.EMBED)


def test_idle_memory_is_given_back_after_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add("a", "the cat", **LONG)
    bench.run()
    bench.add("b", "it rains", max_tokens=1)
    bench.run()
    assert bench.core.cache.resident > 50
    assert bench.core.rest_seconds is not None, "an idle core comes back to it"
    later = time.monotonic() + KEEP_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    bench.core.step()
    assert bench.core.cache.resident < 10, "the rows of the longer one lay beyond those of the latest"
    later += 1
    bench.core.step()
    assert bench.core.cache.untidy is False


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
