"""Turns: priorities are strict, callers of one priority share, and no entry is lost in any history."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.contract import FinishReason, Operation
from runtime.errors import IntegrityError
from runtime.fair_queue import FairQueue
from runtime.request import Request
from runtime.request_state import RequestState, Sequence, SequenceStatus
from runtime.sampling import SamplingParameters
from tests.runtime.engines import Collector

MAX_NEED = 50


@dataclass
class QueueModel:
    """A queue, and an independent record of what waits and runs."""

    queue: FairQueue[Sequence] = field(default_factory=FairQueue)
    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)

    def add(self, caller: str, need: int = 1, priority: int = 0) -> Sequence:
        parameters = SamplingParameters(priority=priority, caller=caller)
        state = RequestState(Request("1", "text", parameters=parameters), Collector(), [0])
        sequence = Sequence(state, 0, Operation.GENERATE, [0], first_wanted=0, max_new_tokens=need - 1)
        self.queue.add(sequence)
        self.waiting.append(sequence)
        return sequence

    def pop(self) -> Sequence:
        assert self.queue.peek() in self.waiting
        sequence = self.queue.pop()
        sequence.status = SequenceStatus.RUNNING
        self.waiting.remove(sequence)
        self.running.append(sequence)
        return sequence

    def cancel(self, number: int) -> None:
        sequence = self.waiting.pop(number % len(self.waiting))
        self.queue.remove(sequence)
        sequence.finish_reason = FinishReason.CANCELLED

    def end(self, number: int, used: int) -> None:
        """A running sequence ends after `used` of its tokens."""
        sequence = self.running.pop(number % len(self.running))
        sequence.tokens += [0] * min(used, sequence.need - 1)
        self.queue.settle(sequence, len(sequence.tokens))

    def act(self, action: tuple[object, ...]) -> None:
        match action:
            case ("add", str() as caller, int() as need, int() as priority):
                self.add(caller, need, priority)
            case ("pop",) if self.waiting:
                self.pop()
            case ("cancel", int() as number) if self.waiting:
                self.cancel(number)
            case ("end", int() as number, int() as used) if self.running:
                self.end(number, used)
        self.check()

    def check(self) -> None:
        self.queue.check_integrity(self.running)
        assert len(self.queue) == len(self.waiting)
        assert set(self.queue) == set(self.waiting)


def histories(
    priorities: st.SearchStrategy[int], max_size: int
) -> st.SearchStrategy[list[tuple[object, ...]]]:
    callers = st.sampled_from("abcdefghij")
    adds = st.tuples(st.just("add"), callers, st.integers(1, MAX_NEED), priorities)
    ends = st.tuples(st.just("end"), st.integers(0, 50), st.integers(0, MAX_NEED))
    cancels = st.tuples(st.just("cancel"), st.integers(0, 50))
    return st.lists(st.one_of(adds, adds, st.tuples(st.just("pop")), cancels, ends), max_size=max_size)


@settings(max_examples=300, deadline=None)
@given(history=histories(st.integers(-2, 2), 60))
def test_any_history_keeps_counts_priorities_and_the_order_of_each_caller(
    history: list[tuple[object, ...]],
) -> None:
    model = QueueModel()
    for action in history:
        model.act(action)
    while model.waiting:
        first: dict[tuple[int, str], Sequence] = {}
        for sequence in model.waiting:
            first.setdefault((sequence.priority, sequence.caller), sequence)
        turn = model.queue.peek()
        assert turn is not None
        assert turn.priority == min(sequence.priority for sequence in model.waiting)
        assert turn is first[turn.priority, turn.caller]
        model.pop()
        model.check()
    assert model.queue.peek() is None
    while model.running:
        model.end(0, 0)
    model.check()
    assert not model.queue._levels, "callers with nothing under way are forgotten"


@settings(max_examples=300, deadline=None)
@given(before=histories(st.just(0), 60), meanwhile=histories(st.just(0), 40))
def test_a_newcomer_waits_for_one_turn_of_every_other_caller_at_most(
    before: list[tuple[object, ...]], meanwhile: list[tuple[object, ...]]
) -> None:
    """Whatever others did before, and whatever they submit, cancel and finish while it waits."""
    model = QueueModel()
    for action in before:
        model.act(action)
    newcomer = model.add("newcomer", MAX_NEED)
    turns: Counter[str] = Counter()
    others = [action for action in meanwhile if action[0] != "cancel"]
    while newcomer in model.waiting:
        if others:
            model.act(others.pop()) if others[-1][0] != "pop" else others.pop()
        turns[model.pop().caller] += 1
    assert max(turns.values()) == 1


def test_a_flood_holds_up_another_caller_by_one_turn() -> None:
    model = QueueModel()
    for _ in range(200):
        model.add("flood", MAX_NEED)
    for _ in range(32):
        model.pop()
    single = model.add("single", MAX_NEED)
    for _ in range(32):
        model.end(0, 3)  # and what ends early gives its caller no right to what others wait for
    assert single in (model.pop(), model.pop())


@settings(max_examples=300, deadline=None)
@given(
    needs=st.dictionaries(
        st.text(max_size=3), st.lists(st.integers(1, MAX_NEED), min_size=1), min_size=2, max_size=12
    )
)
def test_callers_who_wait_all_the_time_are_served_the_same_number_of_tokens(
    needs: dict[str, list[int]],
) -> None:
    model = QueueModel()
    for caller, sizes in needs.items():
        for size in sizes:
            model.add(caller, size)
    served: dict[str, int] = defaultdict(int)
    while len({sequence.caller for sequence in model.waiting}) == len(needs):
        sequence = model.pop()
        served[sequence.caller] += sequence.need
        for one, other in combinations(needs, 2):
            assert abs(served[one] - served[other]) <= max(needs[one]) + max(needs[other])


def test_what_was_not_used_is_given_back() -> None:
    """Two callers ask for the most and stop early: the one who stopped earlier is served more often."""
    model = QueueModel()
    for _ in range(40):
        model.add("brief", MAX_NEED)
        model.add("long", MAX_NEED)
    turns: Counter[str] = Counter()
    for _ in range(30):
        caller = model.pop().caller
        turns[caller] += 1
        model.end(0, 9 if caller == "brief" else MAX_NEED)
    assert turns["brief"] >= 4 * turns["long"]


def test_thousands_of_cancelled_sequences_leave_no_trace() -> None:
    model = QueueModel()
    for number in range(4000):
        model.add(f"caller {number % 1000}")
        model.cancel(0)
    model.add("last")
    level = model.queue._levels[0]
    assert (len(level.accounts), len(level.turns)) == (1, 1)
    for _ in range(200):
        model.add("again")
        model.cancel(1)
    assert len(level.turns) < 40


def test_violated_invariants_are_found() -> None:
    model = QueueModel()
    model.add("a")
    with pytest.raises(IntegrityError, match="running entries that the queue does not know"):
        model.queue.check_integrity([QueueModel().add("b")])
    model.waiting[0].priority = 1
    with pytest.raises(IntegrityError, match="an entry of another caller"):
        model.check()
