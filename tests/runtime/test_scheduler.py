"""Scheduler and KV cache together, over random histories and without a graph.

The test plays the graph: a run writes into row p of a slot a number that stands for all tokens up to p.
After every copy, move, reuse and release of rows, the rows of a sequence must stand for its own tokens.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.contract import FinishReason, Operation
from runtime.errors import IntegrityError
from runtime.kv_cache import RESIDUE_SHARE, SAVED_SHARE, CacheLayout, KvCache
from runtime.request import Request
from runtime.request_state import RequestState, Sequence, SequenceStatus
from runtime.sampling import SamplingParameters
from runtime.scheduler import Batch, Chunk, Decode, Prefill, Scheduler
from tests.runtime.engines import Collector

CONTEXT = 24
CHUNK = 4
# A row is a page: memory that is given back is zero at once, down to the row.
LAYOUT = CacheLayout(layer_heads=(1,), head_size=1024, dtype=np.dtype(np.float32))


def mark(tokens: list[int]) -> float:
    return float(zlib.crc32(bytes(tokens)) % 65521)


@dataclass
class SchedulerModel:
    """A scheduler and what happened to its sequences."""

    num_slots: int
    max_tokens: int | None = None
    packs: bool = False
    added: list[Sequence] = field(default_factory=list)
    started: list[Sequence] = field(default_factory=list)
    ends: list[Sequence] = field(default_factory=list)
    prompt_tokens_since_decode: int = 0

    def __post_init__(self) -> None:
        self.cache = KvCache(LAYOUT, self.num_slots, CONTEXT, self.max_tokens)
        self.scheduler = Scheduler(self.cache, CHUNK, self._left_queue, packs=self.packs)
        self._removing = False

    def _left_queue(self, sequence: Sequence) -> None:
        if not self._removing:
            waiting = [one for one in self.added if one.status is SequenceStatus.WAITING]
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
        state = RequestState(Request("1", "text", parameters=parameters), Collector(), tokens)
        wanted = 0 if operation is Operation.EMBED else len(tokens) - 1
        sequence = Sequence(state, 0, operation, list(tokens), first_wanted=wanted, max_new_tokens=new_tokens)
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
        decoding = [sequence for sequence in batch.sequences if sequence.is_decoding]
        expected = [one for one in self.cache.owners if one.is_decoding] if self.packs else []
        assert decoding == ([] if batch.embeds else expected), "all that decode get a token, or none does"
        assert len({sequence.slot for sequence in batch.sequences}) == len(batch.chunks)
        assert self.packs or len(batch.chunks) == 1
        prompts = [chunk for chunk in batch.chunks if chunk.sequence not in decoding]
        assert all(chunk.count >= 1 for chunk in prompts)
        assert batch.num_tokens - len(decoding) <= CHUNK
        if self.cache.has_decoding:
            self.prompt_tokens_since_decode += batch.num_tokens - len(decoding)
            assert self.prompt_tokens_since_decode <= CHUNK, "running sequences stall for more than a chunk"
        if decoding:
            self.prompt_tokens_since_decode = 0
        for chunk in batch.chunks:
            for _ in range(chunk.count):
                self._write(chunk.sequence)
                chunk.sequence.computed += 1
        for sequence in batch.sequences:
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
        for buffer in self.cache.buffers:
            buffer[sequence.slot, :, row] = mark(sequence.tokens[: row + 1])

    def _advance(self, sequence: Sequence) -> None:
        if sequence.operation is Operation.GENERATE:
            sequence.tokens.append(len(sequence.tokens) % 3)
        if sequence.operation is not Operation.GENERATE or sequence.ending(ends={99}):
            self.remove(sequence, FinishReason.LENGTH)

    def check(self) -> None:
        self.scheduler.check_integrity()
        for sequence in self.added:
            if sequence.status is SequenceStatus.RUNNING:
                rows = self.cache.buffers[0][sequence.slot, 0, : sequence.computed, 0]
                expected = [mark(sequence.tokens[: row + 1]) for row in range(sequence.computed)]
                assert rows.tolist() == expected
        for slot, residue in enumerate(self.cache._residues):
            rows = self.cache.buffers[1][slot, 0, : len(residue), -1]
            assert rows.tolist() == [mark(residue[: row + 1]) for row in range(len(residue))]
            beyond = self.cache.buffers[1][slot, 0, self.cache._touched[slot] :]
            assert self.cache._owners[slot] is not None or not beyond.any(), "rows that are not counted"


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
        st.tuples(st.just("reclaim")),
        st.tuples(st.just("step")),
        st.tuples(st.just("step")),
    ),
    max_size=60,
)


@settings(max_examples=500, deadline=None)
@given(
    num_slots=st.integers(1, 4),
    max_tokens=st.none() | st.integers(CONTEXT, 60),
    packs=st.booleans(),
    history=actions,
)
def test_any_history_keeps_rows_slots_and_outcomes(
    num_slots: int, max_tokens: int | None, packs: bool, history: list[tuple[object, ...]]
) -> None:
    model = SchedulerModel(num_slots, max_tokens, packs)
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
                model.add(tokens, new, what, priority, who)
            case ("reclaim",):
                model.cache.reclaim(math.inf)
            case ("abort", int() as number) if model.added:
                sequence = model.added[number % len(model.added)]
                if sequence.status is not SequenceStatus.FINISHED:
                    model.remove(sequence, FinishReason.CANCELLED)
            case _:
                model.step()
        model.check()
    while model.step():
        pass
    assert sorted(map(id, model.ends)) == sorted(map(id, model.added))
    assert not model.scheduler.has_work
    assert (model.cache.num_tokens, model.cache.promised) == (0, 0)
    while model.cache.reclaim(math.inf):
        model.check()
    kept = sum(map(len, model.cache._residues))
    assert kept <= model.cache.capacity // RESIDUE_SHARE
    assert model.cache.resident - kept <= num_slots, "a page of each slot at most"


def test_a_prompt_that_begins_like_one_in_the_cache_is_run_from_where_they_part() -> None:
    model = SchedulerModel(num_slots=2)
    model.add([0, 1, 0, 1, 0, 1], 3)
    while model.step():
        pass
    model.add([0, 1, 0, 1, 1, 1], 3)
    model.scheduler.schedule()
    assert model.added[1].computed == 4
    assert model.cache.reused_tokens == 4


def test_the_same_prompt_twice_needs_no_prefill() -> None:
    model = SchedulerModel(num_slots=2)
    for _ in range(2):
        model.add([0, 1, 0, 1], 5)
    assert isinstance(model.scheduler.schedule(), Prefill)
    model._prefill(Prefill([Chunk(model.added[0], 4)]))
    batch = model.scheduler.schedule()
    assert isinstance(batch, Decode)
    assert batch.sequences == model.added


def test_a_long_prompt_shares_the_steps_with_a_running_sequence() -> None:
    model = SchedulerModel(num_slots=2)
    model.add([0], 20)
    model.step()
    model.add([1] * 14, 1)
    kinds = [type(model.step()).__name__ for _ in range(7)]
    assert kinds == ["Prefill", "Decode", "Prefill", "Decode", "Prefill", "Decode", "Prefill"]


def test_many_short_prompts_hold_up_a_running_sequence_no_longer_than_a_long_one() -> None:
    model = SchedulerModel(num_slots=40)
    model.add([0], 20)
    model.step()
    for number in range(30):
        model.add([number + 1] * (1 + number % 3), 1, priority=number % 5 - 2, caller=str(number % 7))
    tokens, most = 0, 0
    while batch := model.step():
        tokens = 0 if isinstance(batch, Decode) else tokens + batch.num_tokens
        most = max(most, tokens)
        if len(model.started) == 31:
            break
    assert model.added[0].status is SequenceStatus.RUNNING
    assert most == CHUNK


def test_an_urgent_prompt_goes_before_one_in_prefill() -> None:
    model = SchedulerModel(num_slots=3)
    model.add([1] * 14, 1)
    model.step()
    model.add([0] * 6, 1)
    model.add([2] * 6, 1, priority=-1)
    model.add([2] * 5 + [0], 1, priority=-1)
    while model.step():
        pass
    assert [model.added.index(one) for one in model.ends] == [2, 3, 0, 1]


def test_a_sequence_waits_until_its_whole_need_fits_and_is_not_overtaken() -> None:
    model = SchedulerModel(num_slots=4, max_tokens=CONTEXT)
    model.add([0] * 4, 10)
    model.add([1] * 4, 10)
    model.add([2], 1)
    while len(model.started) < 2:
        model.step()
        assert model.cache.promised <= CONTEXT
        assert model.added[2].status is SequenceStatus.WAITING
    assert model.ends == [model.added[0]]
    assert model.cache.promised == 14


def test_rows_unused_for_longest_make_room_first() -> None:
    model = SchedulerModel(num_slots=3, max_tokens=38)
    for tokens, new_tokens in (([0] * 4, 8), ([1] * 4, 6), ([2] * 4, 3)):
        model.add(tokens, new_tokens)
    while model.step():
        pass
    assert [model.added.index(one) for one in model.ends] == [2, 1, 0]
    assert model.cache.resident == 29
    model.add([3] * 4, 19)  # 23 in slot 0, beside the 10 and 7 rows that are left
    model.step()
    assert [residue[:1] for residue in model.cache._residues] == [[], [1], []]
    assert model.cache.resident == 33


def held(model: SchedulerModel) -> Counter[str]:
    """Slots of each caller."""
    return Counter(one.caller for one in model.cache.owners)


def test_a_caller_with_all_slots_gives_up_half_of_them_to_one_that_comes() -> None:
    model = SchedulerModel(num_slots=8)
    for number in range(8):
        model.add([0, number], 20, caller="first")
    while held(model)["first"] < 8:
        model.step()
    for number in range(8):
        model.add([1, number], 6, caller="second")
    steps = 0
    while held(model)["second"] < 4:
        model.step()
        steps += 1
    assert held(model) == {"first": 4, "second": 4}
    assert steps <= 8, "a prompt and a decode step for each"
    while len(model.ends) < 8:
        model.step()
        steps += 1
    assert {one.caller for one in model.ends} == {"second"}
    assert steps <= 8 + 2 * 6, "a prompt each, and two rounds of 6 tokens in 4 slots"
    while model.step():
        pass
    assert len(model.ends) == 16
    assert model.cache.num_preempted <= 4 + 4, "a slot that becomes free does not change hands twice"


def test_three_callers_who_wait_come_to_hold_equally_many_slots() -> None:
    model = SchedulerModel(num_slots=9)
    for caller in "abc":
        for number in range(9):
            model.add([number % 3] * (1 + number), 14, caller=caller)
        for _ in range(40):
            model.step()
            if len({one.caller for one in model.scheduler.queue}) == len(held(model)):
                break
    for _ in range(12):
        model.step()
    assert held(model) == {"a": 3, "b": 3, "c": 3}


def test_the_sequence_that_came_last_loses_its_slot_and_the_urgent_ones_keep_theirs() -> None:
    model = SchedulerModel(num_slots=3)
    for priority in (-1, 0, 0):
        model.add([0, 1], 12, priority=priority, caller="first")
    while model.cache.num_taken < 3 or not all(one.is_decoding for one in model.cache.owners):
        model.step()
    model.add([2, 2], 2, caller="second")
    model.step()
    assert [one.status for one in model.added] == [
        SequenceStatus.RUNNING, SequenceStatus.RUNNING, SequenceStatus.WAITING, SequenceStatus.RUNNING,
    ]  # fmt: skip
    assert model.added[2].saved_rows is not None
    model.remove(model.added[2], FinishReason.CANCELLED)  # what waits preempted can be cancelled
    model.check()
    assert model.cache.saved == 0


def test_a_caller_with_one_slot_more_keeps_it() -> None:
    model = SchedulerModel(num_slots=1)
    model.add([0], 9, caller="first")
    model.step()
    model.step()
    model.add([1], 1, caller="second")
    while len(model.ends) < 2:
        model.step()
    assert model.cache.num_preempted == 0
    assert model.ends == model.added


def test_no_more_rows_are_saved_than_may_be() -> None:
    model = SchedulerModel(num_slots=2, max_tokens=2 * CONTEXT)
    for number in range(2):
        model.add([number] * 10, 12, caller="first")
    while any(one.computed <= 2 * CONTEXT // SAVED_SHARE for one in model.added):
        model.step()
    model.add([2], 2, caller="second")
    for _ in range(4):
        model.step()
        assert model.cache.saved <= model.cache.capacity // SAVED_SHARE
    assert model.added[2].status is SequenceStatus.WAITING


def test_violated_invariants_are_found() -> None:
    model = SchedulerModel(num_slots=2)
    model.add([0, 1], 5)
    model.step()
    model.added[0].slot = 1
    with pytest.raises(IntegrityError, match="slot 0"):
        model.scheduler.check_integrity()
    model = SchedulerModel(num_slots=1)
    model.add([0, 1], 5)
    model.added[0].status = SequenceStatus.RUNNING
    with pytest.raises(IntegrityError, match="does not wait"):
        model.scheduler.check_integrity()


def chunks_beside_a_decoding_sequence(*, others_wait: bool) -> list[int]:
    """Tokens of each run of a prompt of 13 tokens that comes while another sequence decodes."""
    model = SchedulerModel(num_slots=2)
    model.scheduler.beside_decode = 2
    model.add([0], 12)
    while not model.cache.has_decoding:
        model.step()
    model.step()
    model.add([1] * 13, 2)
    if others_wait:
        model.add([0, 1], 1)
    runs = []
    while not model.added[1].is_decoding:
        batch = model.step()
        runs += [batch.num_tokens] if isinstance(batch, Prefill) else []
    return runs


def test_a_prompt_gives_way_to_those_that_decode_while_nothing_waits_behind_it() -> None:
    assert chunks_beside_a_decoding_sequence(others_wait=False) == [2] * 6
    assert chunks_beside_a_decoding_sequence(others_wait=True) == [4, 4, 3, 2]


def counts(batch: Batch | None) -> list[int]:
    assert isinstance(batch, Prefill)
    return [chunk.count for chunk in batch.chunks]


def test_prompts_share_a_run_with_each_other_and_with_those_that_decode() -> None:
    model = SchedulerModel(num_slots=5, packs=True)
    model.add([5], 20)
    assert isinstance(model.step(), Decode)
    model.add([6], 20)
    model.add([7, 0, 0], 2)
    assert counts(model.step()) == [3, 1, 1], "the prompt, and two that decode"
    model.add([8, 0], 2)
    model.add([9, 0], 2)
    assert counts(model.step()) == [2, 2, 1, 1, 1]


def test_no_prompt_is_cut_to_a_crumb_and_none_leaves_one() -> None:
    model = SchedulerModel(num_slots=4, packs=True)
    model.add([5, 0, 0], 1)
    model.add([6, 0, 0], 1)
    assert counts(model.step()) == [3]
    assert counts(model.step()) == [3]
    model.add([7, 0, 0, 0, 0], 1)
    assert [counts(model.step()) for _ in range(2)] == [[3], [2]]


def test_a_prompt_that_begins_like_one_in_prefill_waits_for_its_rows() -> None:
    model = SchedulerModel(num_slots=4, packs=True)
    for _ in range(3):
        model.add([0, 1, 0], 5)
    assert counts(model.step()) == [3]
    batch = model.step()
    assert isinstance(batch, Decode)
    assert batch.sequences == model.added
    assert model.cache.reused_tokens == 4


def test_prompts_to_embed_run_apart_from_those_that_want_logits() -> None:
    model = SchedulerModel(num_slots=4, packs=True)
    model.add([5], 20)
    model.step()
    model.add([6, 0], 0, Operation.EMBED)
    model.add([8, 0], 0, Operation.EMBED)
    model.add([7, 0], 2)
    embeds = model.step()
    assert counts(embeds) == [2, 2]
    assert [one.operation for one in model.ends] == [Operation.EMBED] * 2
    assert isinstance(model.step(), Decode), "a chunk ran since its last token"
    assert counts(model.step()) == [2, 1]
