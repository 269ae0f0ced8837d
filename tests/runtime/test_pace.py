"""Chunks that take about as long as a few steps of those that decode."""

from __future__ import annotations

import pytest

from runtime.pace import LEAST, MULTIPLE, STEPS, Pace

MOST = 128


def measured(step: float, token: float) -> Pace:
    pace = Pace()
    pace.note_decode(step)
    pace.note_prefill(LEAST, LEAST * token)
    return pace


def test_all_is_allowed_until_both_were_measured() -> None:
    pace = Pace()
    assert pace.chunk(MOST) == MOST
    pace.note_decode(0.001)
    assert pace.chunk(MOST) == MOST
    pace.note_prefill(LEAST - 1, 10.0)  # too few to tell
    assert pace.chunk(MOST) == MOST


@pytest.mark.parametrize(("step", "token"), [(0.002, 0.0001), (0.006, 0.0004), (0.01, 0.00025)])
def test_a_chunk_takes_no_longer_than_its_steps(step: float, token: float) -> None:
    chunk = measured(step, token).chunk(MOST)
    assert chunk % MULTIPLE == 0
    assert STEPS * step - MULTIPLE * token < chunk * token <= STEPS * step


def test_bounds() -> None:
    assert measured(1.0, 0.001).chunk(MOST) == MOST
    assert measured(0.001, 1.0).chunk(MOST) == LEAST
    assert measured(0.001, 1.0).chunk(16) == 16


def test_the_mean_follows_and_forgets_one_slow_run() -> None:
    pace = measured(0.01, 0.0005)
    usual = pace.chunk(MOST)
    pace.note_decode(0.05)
    assert usual < pace.chunk(MOST)
    for _ in range(30):
        pace.note_decode(0.01)
    assert pace.chunk(MOST) <= usual
    for _ in range(30):
        pace.note_decode(0.02)
    assert pace.chunk(MOST) > usual
