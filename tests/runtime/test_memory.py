"""Memory of the KV cache follows use: really allocated, really given back."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from runtime.contract import FinishReason, Operation
from runtime.kv_cache import CacheLayout, KvCache
from runtime.request import Request
from runtime.request_state import RequestState, Sequence
from runtime.scheduler import Decode, Prefill, Scheduler
from tests.runtime.engines import Collector

MIB = 1024**2
CONTEXT = 512
NUM_SLOTS = 8
FLOAT32 = CacheLayout(layer_heads=(8, 11, 5, 8), head_size=64, dtype=np.dtype(np.float32))
EIGHT_BITS = CacheLayout(layer_heads=(12,) * 11 + (1,), head_size=68, dtype=np.dtype(np.uint8))


def resident_mib() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / MIB


def token_mib(layout: CacheLayout) -> float:
    return 2 * sum(layout.layer_heads) * layout.row_bytes / MIB


class Burst:
    """Long sequences in all slots, whose rows are written as a graph would."""

    def __init__(self, layout: CacheLayout, max_tokens: int | None = None) -> None:
        self.cache = KvCache(layout, NUM_SLOTS, CONTEXT, max_tokens)
        self.scheduler = Scheduler(self.cache, CONTEXT, lambda sequence: None)
        self.most = 0.0  # resident, MiB
        self.most_slots = 0
        self.running: list[Sequence] = []

    def add(self, length: int, first: int) -> None:
        tokens = [first] * length
        state = RequestState(Request("1", "text"), Collector(), tokens)
        self.scheduler.add([Sequence(state, 0, Operation.NEXT, tokens, first_wanted=length - 1)])

    def run(self) -> None:
        """Prefill all that find room; they stay until `end`."""
        while batch := self.scheduler.schedule():
            assert isinstance(batch, Prefill)
            (chunk,) = batch.chunks
            sequence = chunk.sequence
            sequence.computed += chunk.count
            for buffer in self.cache.buffers:
                buffer[sequence.slot, :, : sequence.computed] = 1
            self.scheduler._prefilling.clear()  # it is neither decoding nor over
            self.running.append(sequence)
            self.most = max(self.most, resident_mib())
            self.most_slots = max(self.most_slots, self.cache.num_taken)
            self.scheduler.check_integrity()

    def end(self) -> None:
        for sequence in self.running:
            self.scheduler.remove(sequence, FinishReason.STOP)
        self.running.clear()
        self.scheduler.check_integrity()


@pytest.mark.parametrize("layout", [FLOAT32, EIGHT_BITS], ids=["float32", "uint8"])
def test_after_a_burst_memory_comes_back(layout: CacheLayout) -> None:
    before = resident_mib()
    burst = Burst(layout)
    assert resident_mib() - before < 2, "an empty cache holds nothing"
    for number in range(NUM_SLOTS):
        burst.add(CONTEXT, number)
    burst.run()
    full = NUM_SLOTS * CONTEXT * token_mib(layout)
    assert burst.cache.resident == burst.cache.capacity == NUM_SLOTS * CONTEXT
    assert full * 0.95 < resident_mib() - before < full * 1.05 + 2
    burst.end()
    assert burst.cache.reclaim(before=0.0) is False, "what was used just now stays"
    assert burst.cache.dirty
    while burst.cache.reclaim(before=math.inf):
        burst.scheduler.check_integrity()
    assert burst.cache.resident == burst.cache.capacity // 4
    assert resident_mib() - before < full * 0.25 * 1.05 + 2
    assert all((buffer[-1, :, -1] == 1).all() for buffer in burst.cache.buffers), "the latest residue is kept"


def test_one_token_takes_a_page_of_each_head_and_no_more() -> None:
    before = resident_mib()
    burst = Burst(FLOAT32)
    burst.add(1, 0)
    burst.run()
    pages = 2 * sum(FLOAT32.layer_heads)
    assert resident_mib() - before < pages * 4096 / MIB + 1


def test_the_budget_bounds_memory_and_not_only_promises() -> None:
    """Sequences of all lengths come and go through all slots: what they left makes room in time."""
    before = resident_mib()
    budget = 2 * CONTEXT
    burst = Burst(FLOAT32, max_tokens=budget)
    for length in (CONTEXT, CONTEXT // 2, 100, CONTEXT, 30, CONTEXT // 2):
        for number in range(NUM_SLOTS):
            burst.add(length, number)
        while len(burst.scheduler.queue):
            burst.run()
            burst.end()
    assert burst.most_slots == NUM_SLOTS
    rounding = NUM_SLOTS * 2 * sum(FLOAT32.layer_heads) * 4096 / MIB  # a page of each head
    assert burst.most - before < budget * token_mib(FLOAT32) + rounding + 2


def test_rows_that_are_kept_survive_the_tail_that_goes() -> None:
    burst = Burst(EIGHT_BITS)
    burst.add(CONTEXT, 0)
    burst.run()
    burst.end()
    burst.add(200, 1)  # in the same slot, which holds more rows than it needs
    burst.run()
    burst.end()
    before = resident_mib()
    assert burst.cache.reclaim(math.inf)
    assert before - resident_mib() > 0.9 * (CONTEXT - 200) * token_mib(EIGHT_BITS) - 2
    for buffer in burst.cache.buffers:
        assert (buffer[0, :, :200] == 1).all()
        assert not buffer[0, :, 300].any()
    assert burst.cache.resident == 200


def test_decoding_rows_hold_what_was_copied() -> None:
    """A sequence that moves into a hole takes its rows along, and leaves none behind that count."""
    burst = Burst(FLOAT32)
    for number in range(2):
        tokens = [number] * 100
        state = RequestState(Request("1", "text"), Collector(), tokens)
        sequence = Sequence(state, 0, Operation.GENERATE, tokens, first_wanted=99, max_new_tokens=50)
        burst.scheduler.add([sequence])
        batch = burst.scheduler.schedule()
        assert isinstance(batch, Prefill)
        for buffer in burst.cache.buffers:
            buffer[sequence.slot, :, :100] = number + 1
        sequence.computed = 100
        sequence.tokens.append(7)
        burst.running.append(sequence)
    burst.scheduler.remove(burst.running.pop(0), FinishReason.STOP)
    batch = burst.scheduler.schedule()
    assert isinstance(batch, Decode)
    assert batch.rows == burst.running
    burst.scheduler.check_integrity()
    assert all((buffer[0, :, :100] == 2).all() for buffer in burst.cache.buffers)
    assert burst.cache.reclaim(math.inf)
    assert not any(buffer[1].any() for buffer in burst.cache.buffers)
