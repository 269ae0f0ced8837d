"""Turns: priorities are strict, callers of one priority share, and nobody is lost, whatever happens."""

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
from runtime.live import LiveRequest
from runtime.request import Request
from runtime.sampling import SamplingParameters
from runtime.sequence import Sequence, SequenceState
from tests.runtime.engines import Collector

MAX_NEED = 50


@dataclass
class Desk:
    """A queue, and who waits and runs by a count of its own."""

    queue: FairQueue = field(default_factory=FairQueue)
    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)

    def add(self, caller: str, need: int = 1, priority: int = 0) -> Sequence:
        parameters = SamplingParameters(priority=priority, caller=caller)
        live = LiveRequest(Request("1", "text", parameters=parameters), Collector(), [0])
        sequence = Sequence(live, 0, Operation.GENERATE, [0], first_wanted=0, max_new_tokens=need - 1)
        self.queue.add(sequence)
        self.waiting.append(sequence)
        return sequence

    def pop(self) -> Sequence:
        assert self.queue.peek() in self.waiting
        sequence = self.queue.pop()
        sequence.state = SequenceState.RUNNING
        self.waiting.remove(sequence)
        self.running.append(sequence)
        return sequence

    def cancel(self, number: int) -> None:
        sequence = self.waiting.pop(number % len(self.waiting))
        self.queue.remove(sequence)
        sequence.finish_reason = FinishReason.CANCELLED

    def end(self, number: int, used: int) -> None:
        """A running sequence is over after so many of its tokens."""
        sequence = self.running.pop(number % len(self.running))
        sequence.tokens += [0] * min(used, sequence.need - 1)
        self.queue.settle(sequence)

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
def test_any_history_keeps_books_priorities_and_the_order_of_each_caller(
    history: list[tuple[object, ...]],
) -> None:
    desk = Desk()
    for action in history:
        desk.act(action)
    while desk.waiting:
        first: dict[tuple[int, str], Sequence] = {}
        for sequence in desk.waiting:
            first.setdefault((sequence.priority, sequence.caller), sequence)
        turn = desk.queue.peek()
        assert turn is not None
        assert turn.priority == min(sequence.priority for sequence in desk.waiting)
        assert turn is first[turn.priority, turn.caller]
        desk.pop()
        desk.check()
    assert desk.queue.peek() is None
    while desk.running:
        desk.end(0, 0)
    desk.check()
    assert not desk.queue._levels, "callers with nothing under way are forgotten"


@settings(max_examples=300, deadline=None)
@given(before=histories(st.just(0), 60), meanwhile=histories(st.just(0), 40))
def test_a_newcomer_waits_for_one_turn_of_every_other_caller_at_most(
    before: list[tuple[object, ...]], meanwhile: list[tuple[object, ...]]
) -> None:
    """Whatever others did before, and whatever they submit, cancel and finish while it waits."""
    desk = Desk()
    for action in before:
        desk.act(action)
    newcomer = desk.add("newcomer", MAX_NEED)
    turns: Counter[str] = Counter()
    others = [action for action in meanwhile if action[0] != "cancel"]
    while newcomer in desk.waiting:
        if others:
            desk.act(others.pop()) if others[-1][0] != "pop" else others.pop()
        turns[desk.pop().caller] += 1
    assert max(turns.values()) == 1


def test_a_flood_holds_up_another_caller_by_one_turn() -> None:
    desk = Desk()
    for _ in range(200):
        desk.add("flood", MAX_NEED)
    for _ in range(32):
        desk.pop()
    single = desk.add("single", MAX_NEED)
    for _ in range(32):
        desk.end(0, 3)  # and what ends early gives its caller no right to what others wait for
    assert single in (desk.pop(), desk.pop())


@settings(max_examples=300, deadline=None)
@given(
    needs=st.dictionaries(
        st.text(max_size=3), st.lists(st.integers(1, MAX_NEED), min_size=1), min_size=2, max_size=12
    )
)
def test_callers_who_wait_all_the_time_are_served_the_same_number_of_tokens(
    needs: dict[str, list[int]],
) -> None:
    desk = Desk()
    for caller, sizes in needs.items():
        for size in sizes:
            desk.add(caller, size)
    served: dict[str, int] = defaultdict(int)
    while len({sequence.caller for sequence in desk.waiting}) == len(needs):
        sequence = desk.pop()
        served[sequence.caller] += sequence.need
        for one, other in combinations(needs, 2):
            assert abs(served[one] - served[other]) <= max(needs[one]) + max(needs[other])


def test_what_was_not_used_is_given_back() -> None:
    """Two callers ask for the most and stop early: the one who stopped earlier is served more often."""
    desk = Desk()
    for _ in range(40):
        desk.add("brief", MAX_NEED)
        desk.add("long", MAX_NEED)
    turns: Counter[str] = Counter()
    for _ in range(30):
        caller = desk.pop().caller
        turns[caller] += 1
        desk.end(0, 9 if caller == "brief" else MAX_NEED)
    assert turns["brief"] >= 4 * turns["long"]


def test_thousands_of_cancelled_sequences_leave_no_trace() -> None:
    desk = Desk()
    for number in range(4000):
        desk.add(f"caller {number % 1000}")
        desk.cancel(0)
    desk.add("last")
    level = desk.queue._levels[0]
    assert (len(level.accounts), len(level.turns)) == (1, 1)
    for _ in range(200):
        desk.add("again")
        desk.cancel(1)
    assert len(level.turns) < 40


def test_books_that_do_not_agree_are_found() -> None:
    desk = Desk()
    desk.add("a")
    with pytest.raises(IntegrityError, match="sequences run"):
        desk.queue.check_integrity([Desk().add("b")])
    desk.waiting[0].state = SequenceState.RUNNING
    with pytest.raises(IntegrityError, match="does not wait"):
        desk.check()
