"""Chunks that take about as long as a few decode steps."""

from __future__ import annotations

import pytest

from runtime.contract import Operation
from runtime.request import Request
from runtime.request_state import RequestState, Sequence
from runtime.scheduler import (
    CHUNK_DECODE_STEPS,
    CHUNK_MULTIPLE,
    MIN_CHUNK,
    Chunk,
    ChunkBudget,
    Decode,
    Prefill,
)
from tests.runtime.engines import Collector

MOST = 128


def prefill(count: int) -> Prefill:
    tokens = [0] * count
    state = RequestState(Request("1", "text"), Collector(), tokens)
    sequence = Sequence(state, 0, Operation.NEXT, tokens, first_wanted=count - 1)
    return Prefill([Chunk(sequence, count)])


DECODE = Decode([], [])


def measured(step: float, token: float) -> ChunkBudget:
    budget = ChunkBudget()
    budget.note(DECODE, step)
    budget.note(prefill(MIN_CHUNK), MIN_CHUNK * token)
    return budget


def test_all_is_allowed_until_both_were_measured() -> None:
    budget = ChunkBudget()
    assert budget.tokens(MOST) == MOST
    budget.note(DECODE, 0.001)
    assert budget.tokens(MOST) == MOST
    budget.note(prefill(MIN_CHUNK - 1), 10.0)  # too few tokens to measure by
    assert budget.tokens(MOST) == MOST


@pytest.mark.parametrize(("step", "token"), [(0.002, 0.0001), (0.006, 0.0004), (0.01, 0.00025)])
def test_a_chunk_takes_no_longer_than_its_steps(step: float, token: float) -> None:
    chunk = measured(step, token).tokens(MOST)
    assert chunk % CHUNK_MULTIPLE == 0
    steps = CHUNK_DECODE_STEPS * step
    assert steps - CHUNK_MULTIPLE * token < chunk * token <= steps


def test_bounds() -> None:
    assert measured(1.0, 0.001).tokens(MOST) == MOST
    assert measured(0.001, 1.0).tokens(MOST) == MIN_CHUNK
    assert measured(0.001, 1.0).tokens(16) == 16


def test_the_mean_follows_and_forgets_one_slow_run() -> None:
    budget = measured(0.01, 0.0005)
    usual = budget.tokens(MOST)
    budget.note(DECODE, 0.05)
    assert usual < budget.tokens(MOST)
    for _ in range(30):
        budget.note(DECODE, 0.01)
    assert budget.tokens(MOST) <= usual
    for _ in range(30):
        budget.note(DECODE, 0.02)
    assert budget.tokens(MOST) > usual
