"""How long something takes to leave a queue, on a clock of the test."""

from __future__ import annotations

import pytest

from runtime.drain_rate import LEAST_SECONDS, MOST_SECONDS, UNMEASURED_SECONDS, WINDOW_SECONDS, DrainRate


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_time_follows_the_measured_rate() -> None:
    clock = Clock()
    rate = DrainRate(clock)
    assert rate.seconds_for(1) == UNMEASURED_SECONDS
    for _ in range(100):
        rate.note(2)
        clock.now += 0.1
    assert rate.per_second == pytest.approx(20)
    assert rate.seconds_for(100) == pytest.approx(5)
    assert rate.seconds_for(1) == LEAST_SECONDS
    assert rate.seconds_for(10_000) == MOST_SECONDS


def test_what_is_long_ago_is_forgotten() -> None:
    clock = Clock()
    rate = DrainRate(clock)
    for _ in range(10_000):
        rate.note()
        clock.now += 0.5
    assert len(rate._buckets) <= WINDOW_SECONDS + 2
    clock.now += WINDOW_SECONDS + 1
    assert rate.per_second is None
