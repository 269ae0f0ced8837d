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

from kernels.library import missing
from runtime.config import EngineConfig
from runtime.contract import GRAPH_FILE, TOKENIZER_FILE, Fault, FaultCode, FinishReason, Operation, Variant
from runtime.core import EngineCore
from runtime.errors import RequestFault
from runtime.input_processor import InputProcessor, QueueLimits
from runtime.kv_cache import KEEP_SECONDS
from runtime.manifest import Manifest
from runtime.pacing import FIRST_TOKEN_SECONDS, StepPacing
from runtime.request import parse_request
from runtime.request_state import Event, FaultEvent, RequestState, TokenEvent
from runtime.scheduler import Batch, Chunk, Decode, Prefill
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


class TinyCore:
    """A core over the tiny model."""

    def __init__(self, artifact: Path, variant: Variant = Variant.FP32, **values: Any) -> None:
        manifest = Manifest.load(artifact)
        self.session = FailingSession(artifact / variant.value / GRAPH_FILE, 1)
        self.queue_limits = QueueLimits(1000, 100_000)
        self.config = EngineConfig(variant, **values)
        self.core = EngineCore(
            self.session,
            manifest.architecture,
            self.config,
            self.queue_limits.release,
        )
        tokenizer = Tokenizer(artifact / TOKENIZER_FILE, manifest.architecture.eos_token_id)
        self._input_processor = InputProcessor(tokenizer, manifest.architecture, self.core.cache.capacity)

    def add(
        self,
        request_id: str,
        text: str,
        operation: Operation = Operation.GENERATE,
        *,
        stream: bool = False,
        **parameters: Any,
    ) -> RequestState:
        request = parse_request(request_id, text, operation, parameters, stream=stream)
        state = self._input_processor.process(request, Collector())
        self.queue_limits.reserve(state)
        self.core.add(state)
        return state

    def run(self) -> list[Event]:
        events = []
        while self.core.has_work:
            events += self.core.step()
            self.core.scheduler.check_integrity()
        self.queue_limits.check_empty()
        return events


@pytest.fixture
def tiny(lm_artifact: Path) -> TinyCore:
    return TinyCore(lm_artifact, num_slots=2, prefill_chunk=4)


LONG: dict[str, Any] = {"max_tokens": 50, "ignore_eos": True}


def test_cancelling_frees_the_slot_before_the_next_step(tiny: TinyCore) -> None:
    for name in ("a", "b", "c"):
        tiny.add(name, "the cat", **LONG)
    for _ in range(4):
        tiny.core.step()
    assert tiny.core.scheduler.num_running == 2
    tiny.core.abort("a", CANCELLED)
    assert tiny.core.scheduler.num_running == 1
    events = tiny.core.step()
    assert tiny.core.scheduler.num_running == 2, "the waiting request has the slot now"
    assert [event.fault for event in events if isinstance(event, FaultEvent)] == [CANCELLED]
    assert {event.state.request.request_id for event in tiny.run()} == {"b", "c"}


@pytest.mark.skipif(bool(missing()), reason="of our operators")
def test_prompts_that_wait_get_their_first_tokens_in_one_step_with_those_that_run(lm_artifact: Path) -> None:
    tiny = TinyCore(lm_artifact, Variant.INT8, num_slots=8)

    def step() -> list[str]:
        return [event.state.request.request_id for event in tiny.core.step() if isinstance(event, TokenEvent)]

    for text in ("the cat sat", "a little dog", "it rains"):
        tiny.add(text, text, **LONG)
    assert step() == ["the cat sat", "a little dog", "it rains"]
    tiny.core.abort("a little dog", CANCELLED)
    tiny.add("late", "on the mat", **LONG)
    assert step() == ["late", "the cat sat", "it rains"]
    tiny.session.spoiled = np.nan
    tiny.add("spoiled", "home", **LONG)
    assert step() == []
    assert not tiny.core.cache.num_taken


def test_cancelling_in_the_middle_of_a_prefill(tiny: TinyCore) -> None:
    tiny.add("a", "the little cat sat on the mat and the dog ran home", **LONG)
    tiny.core.step()
    tiny.core.abort("a", CANCELLED)
    assert tiny.core.scheduler.num_running == 0
    assert [type(event) for event in tiny.run()] == [FaultEvent]


def test_a_step_pauses_after_the_first_token_of_a_stream_that_is_the_only_request(tiny: TinyCore) -> None:
    pacing = StepPacing(on_host=True)

    def pauses(state: RequestState) -> list[float]:
        """After each step that gave the request a token."""
        found = []
        while tiny.core.has_work:
            events = tiny.core.step()
            if any(isinstance(event, TokenEvent) and event.state is state for event in events):
                found.append(pacing.pause_after(events, tiny.core.num_requests))
                assert StepPacing(on_host=False).pause_after(events, tiny.core.num_requests) == 0
        return found

    alone = tiny.add("alone", "the cat", stream=True, max_tokens=3, ignore_eos=True)
    assert pauses(alone) == [FIRST_TOKEN_SECONDS, 0.0, 0.0]
    whole = tiny.add("whole", "the cow", max_tokens=3, ignore_eos=True)
    assert pauses(whole) == [0.0, 0.0, 0.0]
    tiny.add("other", "the bird", stream=True, max_tokens=9, ignore_eos=True)
    among = tiny.add("among", "the dog", stream=True, max_tokens=3, ignore_eos=True)
    assert pauses(among) == [0.0, 0.0, 0.0]


def test_a_failing_step_fails_the_requests_in_it_and_no_other(
    tiny: TinyCore, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c", "d"):
        tiny.add(name, f"the {name}", max_tokens=5, ignore_eos=True)
    while tiny.core.scheduler.num_running < 2:
        tiny.core.step()
    tiny.core.step()
    tiny.session.failures = 1
    with caplog.at_level(logging.ERROR):
        events = tiny.run()
    failed = {event.state.request.request_id for event in events if isinstance(event, FaultEvent)}
    finished = {
        event.state.request.request_id for event in events if isinstance(event, TokenEvent) and event.reason
    }
    assert failed
    assert failed.isdisjoint(finished)
    assert failed | finished == {"a", "b", "c", "d"}
    assert "injected" in caplog.text
    codes = {event.fault.code for event in events if isinstance(event, FaultEvent)}
    assert codes == {FaultCode.INTERNAL}


@pytest.mark.parametrize("spoiled", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("operation", [each for each in Operation if each is not Operation.TOKENIZE])
def test_outputs_that_are_no_numbers_fail_the_request(
    tiny: TinyCore, operation: Operation, spoiled: float
) -> None:
    parameters: dict[str, Any] = {"continuations": ["the"]} if operation is Operation.SCORE else {}
    tiny.session.spoiled = spoiled
    tiny.add("a", "the cat sat", operation, **parameters)
    (event,) = tiny.run()
    assert isinstance(event, FaultEvent)
    assert (event.fault.code, "not finite" in event.fault.message) == (FaultCode.INTERNAL, True)


def test_after_a_failed_step_answers_are_right(tiny: TinyCore) -> None:
    good = tokens_of(tiny, "x", "the cat sat")
    tiny.add("y", "the cat sat", **LONG)
    tiny.core.step()
    tiny.session.failures = 1
    tiny.run()
    assert tokens_of(tiny, "z", "the cat sat") == good


def test_after_a_reset_answers_are_right(tiny: TinyCore) -> None:
    good = tokens_of(tiny, "x", "the cat sat")
    tiny.add("y", "the cat sat", **LONG)
    tiny.core.step()
    tiny.core.reset(Fault(FaultCode.INTERNAL, "wrong"))
    assert [type(event) for event in tiny.run()] == [FaultEvent]
    assert tokens_of(tiny, "z", "the cat sat") == good


def test_a_late_stop_is_no_error(tiny: TinyCore) -> None:
    state = tiny.add("a", "the cat", max_tokens=1)
    tiny.run()
    tiny.core.stop(state, 0)
    tiny.core.abort("a", CANCELLED)
    assert not tiny.core.has_work
    assert tiny.core.counters.finished[FinishReason.CANCELLED] == 0


def test_requests_that_are_over_are_not_kept_for_their_deadline(tiny: TinyCore) -> None:
    states = [
        weakref.ref(tiny.add(str(number), "a", max_tokens=1, deadline_ms=60_000)) for number in range(60)
    ]
    tiny.run()
    tiny.add("last", "a", max_tokens=1, deadline_ms=60_000)
    gc.collect()
    assert [state() for state in states] == [None] * 60


def test_a_deadline_that_passed_in_the_queue_takes_no_slot(tiny: TinyCore) -> None:
    for name in ("a", "b"):
        tiny.add(name, "the cat", **LONG)
    for _ in range(4):
        tiny.core.step()
    late = tiny.add("late", "the dog", deadline_ms=60_000, **LONG)
    tiny.core._deadlines[0] = (time.monotonic() - 1, *tiny.core._deadlines[0][1:])
    tiny.core.abort("a", CANCELLED)
    assert tiny.core.scheduler.num_running == 1
    faults = [event.fault for event in tiny.core.step() if isinstance(event, FaultEvent)]
    assert [fault.code for fault in faults] == [FaultCode.CANCELLED, FaultCode.DEADLINE_EXCEEDED]
    assert "(waiting)" in faults[1].message
    assert late.started is None
    assert len(tiny.core.scheduler.queue) == 0


def test_a_request_counts_in_the_queue_until_each_of_its_sequences_has_a_slot(tiny: TinyCore) -> None:
    """Four of 2 tokens, of which two find a slot."""
    tiny.add("a", "the cat", n=4, **LONG)
    assert (tiny.queue_limits.num_requests, tiny.queue_limits.num_tokens) == (1, 8)
    for _ in range(4):
        tiny.core.step()
    assert (tiny.queue_limits.num_requests, tiny.queue_limits.num_tokens) == (1, 4)
    tiny.core.abort("a", CANCELLED)
    tiny.queue_limits.check_empty()


def test_requests_of_one_caller_do_not_hold_up_another_nor_the_urgent_ones(tiny: TinyCore) -> None:
    for number in range(20):
        tiny.add(f"flood {number}", "the cat", max_tokens=4, ignore_eos=True, caller="flood")
    tiny.core.step()
    tiny.add("single", "the dog", max_tokens=4, ignore_eos=True, caller="single")
    tiny.add("urgent", "it rains", max_tokens=4, ignore_eos=True, caller="flood", priority=-1)
    ends = [
        event.state.request.request_id
        for event in tiny.run()
        if isinstance(event, TokenEvent) and event.reason
    ]
    assert ends[:2] == ["flood 0", "urgent"]
    assert ends.index("single") <= 3


def test_a_deadline_that_cannot_be_met_is_refused_at_once(tiny: TinyCore) -> None:
    for number in range(6):
        tiny.add(str(number), "the cat", max_tokens=20, ignore_eos=True)
    for _ in range(6):
        tiny.core.step()
    sequence = tiny.core.cache.owners[0]
    for _ in range(40):  # as on a slow machine: a second for a step
        tiny.core.scheduler.note_run(Prefill([Chunk(sequence, 1000)]), 1.0)
        tiny.core.scheduler.note_run(Decode([], []), 1.0)
    late = tiny.add("late", "the dog", max_tokens=20, ignore_eos=True, deadline_ms=20_000)
    tiny.add("soon enough", "the dog", max_tokens=20, ignore_eos=True, deadline_ms=200_000)
    (fault,) = [event.fault for event in tiny.core.step() if isinstance(event, FaultEvent)]
    assert (late.closed, fault.code, fault.field) == (True, FaultCode.QUEUE_FULL, "deadline_ms")
    assert "after its deadline of 20000 ms: 2 sequences run and 4 wait" in fault.message
    assert fault.retry_after == 15.0
    assert not [event for event in tiny.run() if isinstance(event, FaultEvent)]


def test_an_idle_engine_refuses_no_deadline(tiny: TinyCore) -> None:
    tiny.add("first", "the cat", max_tokens=5)
    tiny.run()
    tiny.core.scheduler.note_run(Decode([], []), 1000.0)
    tiny.add("second", "the cat", max_tokens=5, deadline_ms=60_000)
    assert not [event for event in tiny.run() if isinstance(event, FaultEvent)]


def fair_share(artifact: Path) -> tuple[TinyCore, RequestState, int]:
    """One caller's two requests fill the slots, and another's short streams come: the steps of the latter."""
    tiny = TinyCore(artifact, num_slots=32)
    first = tiny.add("a", "the cat", n=16, max_tokens=40, ignore_eos=True, caller="first", seed=3)
    tiny.add("b", "the dog ran", n=16, max_tokens=40, ignore_eos=True, caller="first", seed=4)
    while tiny.core.scheduler.num_running < 32:
        tiny.core.step()
    for number in range(8):
        text = f"it rains {'and rains ' * number}"
        tiny.add(str(number), text, stream=True, max_tokens=5, ignore_eos=True, caller="second")
    before = tiny.core.counters.steps
    open_streams, steps = set(map(str, range(8))), 0
    while tiny.core.has_work:
        for event in tiny.core.step():
            if isinstance(event, TokenEvent) and event.reason is not None:
                open_streams.discard(event.state.request.request_id)
        tiny.core.scheduler.check_integrity()
        steps = steps or (0 if open_streams else tiny.core.counters.steps - before)
    tiny.queue_limits.check_empty()
    return tiny, first, steps


def test_a_caller_with_all_slots_holds_up_another_for_a_few_steps(lm_artifact: Path) -> None:
    tiny, first, steps = fair_share(lm_artifact)
    assert steps <= 8 + 8 + 5, "a prompt and a decode step for each stream, and the tokens of the last one"
    assert tiny.core.cache.num_preempted == 8
    assert tiny.core.counters.finished[FinishReason.LENGTH] == 32 + 8
    alone = TinyCore(lm_artifact, num_slots=32)
    same = alone.add("a", "the cat", n=16, max_tokens=40, ignore_eos=True, caller="first", seed=3)
    alone.run()
    assert [one.tokens for one in first.sequences] == [one.tokens for one in same.sequences]


def test_the_cache_holds_no_more_than_it_may(lm_artifact: Path) -> None:
    tiny = TinyCore(lm_artifact, num_slots=4, max_kv_tokens=40)
    for name in ("a", "b", "c"):
        tiny.add(name, "the cat", max_tokens=14, ignore_eos=True)  # 16 each
    most = 0
    while tiny.core.has_work:
        tiny.core.step()
        tiny.core.scheduler.check_integrity()
        most = max(most, tiny.core.cache.promised)
    assert most == 32
    with pytest.raises(RequestFault) as raised:
        tiny.add("d", "the cat", max_tokens=39)
    expected = "2 prompt tokens + 39 = 41, but max_kv_tokens of this server allows 40"
    assert (raised.value.fault.field, raised.value.fault.message) == ("max_tokens", expected)
    with pytest.raises(RequestFault, match=r"text_input.*41 tokens, but max_kv_tokens of this server"):
        tiny.add("e", "a" * 41, Operation.EMBED)


def test_idle_memory_is_given_back_after_a_while(tiny: TinyCore, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.add("a", "the cat", **LONG)
    tiny.run()
    tiny.add("b", "it rains", max_tokens=1)
    tiny.run()
    assert tiny.core.cache.resident > 50
    assert tiny.core.idle_seconds is not None, "an idle core comes back to it"
    later = time.monotonic() + KEEP_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    tiny.core.step()
    assert tiny.core.cache.resident < 10, "the rows of the longer one lay beyond those of the latest"
    later += 1
    tiny.core.step()
    assert tiny.core.cache.dirty is False


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
    tiny = TinyCore(lm_artifact, num_slots=2, prefill_chunk=3)
    states: list[RequestState] = []
    events: list[Event] = []
    for action in history:
        match action:
            case ("add", str() as text, Operation() as operation, int() as tokens, int() as n):
                parameters: dict[Operation, dict[str, Any]] = {
                    Operation.GENERATE: {"max_tokens": tokens, "n": n, "echo": True, "logprobs": n},
                    Operation.SCORE: {"continuations": [" sat"] * n},
                }
                states.append(tiny.add(str(len(states)), text, operation, **parameters.get(operation, {})))
            case ("abort", int() as number):
                tiny.core.abort(str(number), CANCELLED)
            case _:
                events += tiny.core.step()
        tiny.core.scheduler.check_integrity()
    events += tiny.run()
    for state in states:
        assert state.closed
        assert state.is_done
        faults = [event for event in events if isinstance(event, FaultEvent) and event.state is state]
        cancelled = any(s.finish_reason is FinishReason.CANCELLED for s in state.sequences)
        assert len(faults) == cancelled
    assert tiny.core.cache.num_tokens == 0


def tokens_of(tiny: TinyCore, request_id: str, text: str) -> list[int]:
    tiny.add(request_id, text, max_tokens=8, temperature=0, ignore_eos=True)
    return [event.sampled.token_id for event in tiny.run() if isinstance(event, TokenEvent)]
