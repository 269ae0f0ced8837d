"""Scheduler and KV cache together, over random histories and without a graph.

The test plays the graph: a run writes into row p of a slot a number that stands for all tokens up to p.
Whatever is copied, moved, taken over or given back, the rows of a sequence must stand for its own tokens.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.contract import FinishReason, Operation
from runtime.errors import IntegrityError
from runtime.kv_cache import RESIDUE_SHARE, CacheLayout, KvCache
from runtime.live import LiveRequest
from runtime.request import Request
from runtime.sampling import SamplingParameters
from runtime.scheduler import Batch, Decode, Prefill, Scheduler
from runtime.sequence import Sequence, SequenceState
from tests.runtime.engines import Collector

CONTEXT = 24
CHUNK = 4
# A row is a page: memory that is given back is zero at once, down to the row.
LAYOUT = CacheLayout(num_layers=1, num_heads=1, head_size=1024, dtype=np.dtype(np.float32))


def mark(tokens: list[int]) -> float:
    return float(zlib.crc32(bytes(tokens)) % 65521)


@dataclass
class Played:
    """A scheduler and what happened to its sequences."""

    num_slots: int
    max_tokens: int | None = None
    added: list[Sequence] = field(default_factory=list)
    started: list[Sequence] = field(default_factory=list)
    ends: list[Sequence] = field(default_factory=list)
    prompt_tokens_since_decode: int = 0

    def __post_init__(self) -> None:
        self.cache = KvCache(LAYOUT, self.num_slots, CONTEXT, self.max_tokens)
        self.scheduler = Scheduler(self.cache, CHUNK, self._left_queue)
        self._removing = False

    def _left_queue(self, sequence: Sequence) -> None:
        if not self._removing:
            waiting = [one for one in self.added if one.state is SequenceState.WAITING]
            assert sequence.priority == min(one.priority for one in waiting)
            self.started.append(sequence)

    def add(
        self,
        tokens: list[int],
        new_tokens: int,
        operation: Operation = Operation.GENERATE,
        priority: int = 0,
        caller: str = "",
    ) -> None:
        parameters = SamplingParameters(priority=priority, caller=caller)
        live = LiveRequest(Request("1", "text", parameters=parameters), Collector(), tokens)
        wanted = 0 if operation is Operation.EMBED else len(tokens) - 1
        sequence = Sequence(live, 0, operation, list(tokens), first_wanted=wanted, max_new_tokens=new_tokens)
        self.added.append(sequence)
        self.scheduler.add([sequence])

    def remove(self, sequence: Sequence, reason: FinishReason) -> None:
        self._removing = True
        self.scheduler.remove(sequence, reason)
        self._removing = False
        self.ends.append(sequence)

    def step(self) -> Batch | None:
        batch = self.scheduler.schedule()
        if isinstance(batch, Prefill):
            self._prefill(batch)
        elif isinstance(batch, Decode):
            self._decode(batch)
        self.check()
        return batch

    def _prefill(self, batch: Prefill) -> None:
        sequence = batch.sequence
        assert 1 <= batch.count <= CHUNK
        if self.cache.has_decoding:
            self.prompt_tokens_since_decode += batch.count
            assert self.prompt_tokens_since_decode <= CHUNK, "running sequences stall for more than a chunk"
        for _ in range(batch.count):
            self._write(sequence)
            sequence.computed += 1
        if sequence.computed == sequence.end:
            self._advance(sequence)

    def _decode(self, batch: Decode) -> None:
        self.prompt_tokens_since_decode = 0
        assert [sequence.slot for sequence in batch.rows] == list(range(len(batch.rows)))
        for sequence in batch.rows:
            self._write(sequence)
        for sequence in batch.sequences:
            sequence.computed += 1
            self._advance(sequence)

    def _write(self, sequence: Sequence) -> None:
        row = sequence.computed
        self.cache.buffers[:, sequence.slot, :, row] = mark(sequence.tokens[: row + 1])

    def _advance(self, sequence: Sequence) -> None:
        if sequence.operation is Operation.GENERATE:
            sequence.tokens.append(len(sequence.tokens) % 3)
        if sequence.operation is not Operation.GENERATE or sequence.ending(eos_token_id=99):
            self.remove(sequence, FinishReason.LENGTH)

    def check(self) -> None:
        self.scheduler.check_integrity()
        for sequence in self.added:
            if sequence.state is SequenceState.RUNNING:
                rows = self.cache.buffers[0, sequence.slot, 0, : sequence.computed, 0]
                expected = [mark(sequence.tokens[: row + 1]) for row in range(sequence.computed)]
                assert rows.tolist() == expected
        for slot, residue in enumerate(self.cache._residues):
            rows = self.cache.buffers[1, slot, 0, : len(residue), -1]
            assert rows.tolist() == [mark(residue[: row + 1]) for row in range(len(residue))]
            beyond = self.cache.buffers[1, slot, 0, self.cache._touched[slot] :]
            assert self.cache._owners[slot] is not None or not beyond.any(), "rows that nobody counts"


prompts = st.lists(st.integers(0, 1), min_size=1, max_size=14)
actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            prompts,
            st.integers(1, 10),
            st.sampled_from([Operation.GENERATE, Operation.GENERATE, Operation.NEXT, Operation.EMBED]),
            st.integers(-1, 1),
            st.sampled_from("abc"),
        ),
        st.tuples(st.just("abort"), st.integers(0, 30)),
        st.tuples(st.just("tidy")),
        st.tuples(st.just("step")),
        st.tuples(st.just("step")),
    ),
    max_size=60,
)


@settings(max_examples=500, deadline=None)
@given(num_slots=st.integers(1, 4), max_tokens=st.none() | st.integers(CONTEXT, 60), history=actions)
def test_any_history_keeps_rows_slots_and_outcomes(
    num_slots: int, max_tokens: int | None, history: list[tuple[object, ...]]
) -> None:
    played = Played(num_slots, max_tokens)
    for action in history:
        match action:
            case (
                "add",
                list() as tokens,
                int() as new,
                Operation() as what,
                int() as priority,
                str() as who,
            ):
                played.add(tokens, new, what, priority, who)
            case ("tidy",):
                played.cache.give_back(math.inf)
            case ("abort", int() as number) if played.added:
                sequence = played.added[number % len(played.added)]
                if sequence.state is not SequenceState.FINISHED:
                    played.remove(sequence, FinishReason.CANCELLED)
            case _:
                played.step()
        played.check()
    while played.step():
        pass
    assert sorted(map(id, played.ends)) == sorted(map(id, played.added))
    assert not played.scheduler.has_work
    assert (played.cache.num_tokens, played.cache.promised) == (0, 0)
    while played.cache.give_back(math.inf):
        played.check()
    kept = sum(map(len, played.cache._residues))
    assert kept <= played.cache.capacity // RESIDUE_SHARE
    assert played.cache.resident - kept <= num_slots, "a page of each slot at most"


def test_a_prompt_that_begins_like_one_in_the_cache_is_run_from_where_they_part() -> None:
    played = Played(num_slots=2)
    played.add([0, 1, 0, 1, 0, 1], 3)
    while played.step():
        pass
    played.add([0, 1, 0, 1, 1, 1], 3)
    played.scheduler.schedule()
    assert played.added[1].computed == 4
    assert played.cache.reused_tokens == 4


def test_the_same_prompt_twice_needs_no_prefill() -> None:
    played = Played(num_slots=2)
    for _ in range(2):
        played.add([0, 1, 0, 1], 5)
    assert isinstance(played.scheduler.schedule(), Prefill)
    played._prefill(Prefill(played.added[0], 4))
    batch = played.scheduler.schedule()
    assert isinstance(batch, Decode)
    assert batch.sequences == played.added


def test_a_long_prompt_shares_the_steps_with_a_running_sequence() -> None:
    played = Played(num_slots=2)
    played.add([0], 20)
    played.step()
    played.add([1] * 14, 1)
    kinds = [type(played.step()).__name__ for _ in range(7)]
    assert kinds == ["Prefill", "Decode", "Prefill", "Decode", "Prefill", "Decode", "Prefill"]


def test_many_short_prompts_hold_up_a_running_sequence_no_longer_than_a_long_one() -> None:
    played = Played(num_slots=40)
    played.add([0], 20)
    played.step()
    for number in range(30):
        played.add([number + 1] * (1 + number % 3), 1, priority=number % 5 - 2, caller=str(number % 7))
    tokens, most = 0, 0
    while batch := played.step():
        tokens = 0 if isinstance(batch, Decode) else tokens + batch.count
        most = max(most, tokens)
        if len(played.started) == 31:
            break
    assert played.added[0].state is SequenceState.RUNNING
    assert most == CHUNK


def test_an_urgent_prompt_goes_before_one_in_prefill() -> None:
    played = Played(num_slots=3)
    played.add([1] * 14, 1)
    played.step()
    played.add([0] * 6, 1)
    played.add([2] * 6, 1, priority=-1)
    played.add([2] * 5 + [0], 1, priority=-1)
    while played.step():
        pass
    assert [played.added.index(one) for one in played.ends] == [2, 3, 0, 1]


def test_a_sequence_waits_until_its_whole_need_fits_and_is_not_overtaken() -> None:
    played = Played(num_slots=4, max_tokens=CONTEXT)
    played.add([0] * 4, 10)
    played.add([1] * 4, 10)
    played.add([2], 1)
    while len(played.started) < 2:
        played.step()
        assert played.cache.promised <= CONTEXT
        assert played.added[2].state is SequenceState.WAITING
    assert played.ends == [played.added[0]]
    assert played.cache.promised == 14


def test_rows_unused_for_longest_make_room_first() -> None:
    played = Played(num_slots=3, max_tokens=38)
    for tokens, new_tokens in (([0] * 4, 8), ([1] * 4, 6), ([2] * 4, 3)):
        played.add(tokens, new_tokens)
    while played.step():
        pass
    assert [played.added.index(one) for one in played.ends] == [2, 1, 0]
    assert played.cache.resident == 29
    played.add([3] * 4, 19)  # 23 in slot 0, beside the 10 and 7 rows that are left
    played.step()
    assert [residue[:1] for residue in played.cache._residues] == [[], [1], []]
    assert played.cache.resident == 33


def test_books_that_do_not_agree_are_found() -> None:
    played = Played(num_slots=2)
    played.add([0, 1], 5)
    played.step()
    played.added[0].slot = 1
    with pytest.raises(IntegrityError, match="slot 0"):
        played.scheduler.check_integrity()


def chunks_beside_a_decoding_sequence(*, others_wait: bool) -> list[int]:
    """Tokens of each run of a prompt of 13 tokens that comes while another sequence decodes."""
    played = Played(num_slots=2)
    played.scheduler.beside_decode = 2
    played.add([0], 12)
    while not played.cache.has_decoding:
        played.step()
    played.step()
    played.add([1] * 13, 2)
    if others_wait:
        played.add([0, 1], 1)
    runs = []
    while not played.added[1].is_decoding:
        batch = played.step()
        runs += [batch.count] if isinstance(batch, Prefill) else []
    return runs


def test_a_prompt_gives_way_to_those_that_decode_where_nobody_waits_behind_it() -> None:
    assert chunks_beside_a_decoding_sequence(others_wait=False) == [2] * 6
    # The first run is of what the decode step before had settled, when nobody waited.
    assert chunks_beside_a_decoding_sequence(others_wait=True) == [2, 4, 4, 3]
