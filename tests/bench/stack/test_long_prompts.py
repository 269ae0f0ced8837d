"""Intervals between tokens: those within the window, whenever their stream began."""

from __future__ import annotations

import pytest

from bench.stack.long_prompts import between_tokens
from perf.errors import LoadError
from perf.http.figures import Round
from perf.http.outcome import Outcome


def a_round(*streams: list[tuple[float, float]]) -> Round:
    """A window from 10 to 20; the first stream was intended before it."""
    outcomes = [Outcome(0, 0, 30, arrivals=arrivals) for arrivals in streams]
    return Round(10.0, 20.0, outcomes[1:], outcomes[:1], 0.0, 20.0, 0)


def test_what_lies_outside_the_window_does_not_count() -> None:
    early = [(8.0, 1.0), (9.9, 1.0), (11.0, 1.0), (12.0, 1.0)]
    late = [(18.0, 1.0), (20.0, 2.0), (29.0, 1.0)]
    found = between_tokens([a_round(early, late)])
    assert (found.count, found.least, found.most) == (3, 1.0, 1.0)  # two seconds brought two tokens


def test_rounds_count_together() -> None:
    slow, quick = a_round([(11.0, 1.0), (14.0, 1.0)]), a_round([(11.0, 1.0), (12.0, 1.0)])
    assert between_tokens([slow, quick]).mean == 2.0


def test_nothing_within_the_window() -> None:
    with pytest.raises(LoadError, match="--seconds"):
        between_tokens([a_round([(11.0, 1.0), (21.0, 1.0)])])
