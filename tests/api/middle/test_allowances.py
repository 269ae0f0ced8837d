"""Rates of requests and tokens, and tasks in flight, by a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from api.caller import Caller, Limits
from api.errors import RateLimited
from api.middle.allowances import MAX_CALLERS, Allowance, Allowances


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def caller(**limits: Any) -> Caller:
    return Caller("192.0.2.7", "lmaas_1", limits=Limits(**limits))


def wait_of(take: Callable[[], None]) -> float:
    with pytest.raises(RateLimited) as refused:
        take()
    return refused.value.retry_after


def test_a_minute_s_requests_may_come_at_once_and_then_evenly() -> None:
    clock, asks = Clock(), caller(requests_per_minute=30)
    allowances = Allowances(clock)
    for _ in range(30):
        allowances.take(asks, 1)
    assert wait_of(lambda: allowances.take(asks, 1)) == pytest.approx(2)
    clock.now += 1.9
    assert wait_of(lambda: allowances.take(asks, 1)) == pytest.approx(0.1)
    clock.now += 0.2
    allowances.take(asks, 1)
    (left,) = allowances.left(asks)
    assert left == Allowance("requests", 30, 0, left.reset_seconds)
    assert left.reset_seconds == pytest.approx(59.9)
    clock.now += 3600
    assert allowances.left(asks) == [Allowance("requests", 30, 30, 0)]


def test_tokens_are_taken_by_estimate_and_corrected() -> None:
    clock, asks = Clock(), caller(tokens_per_minute=600)
    allowances = Allowances(clock)
    allowances.take(asks, 500)
    assert wait_of(lambda: allowances.take(asks, 200)) == pytest.approx(10)
    allowances.give_back(asks, 450)
    assert allowances.left(asks)[0].remaining == 550
    allowances.give_back(asks, -1150)  # it needed more than was estimated
    (left,) = allowances.left(asks)
    assert left == Allowance("tokens", 600, 0, left.reset_seconds)
    assert left.reset_seconds == pytest.approx(120)
    assert wait_of(lambda: allowances.take(asks, 1)) == pytest.approx(60.1)
    clock.now += 3600
    allowances.give_back(asks, 1000)
    assert allowances.left(asks)[0].remaining == 600


def test_what_is_more_than_a_minute_s_tokens_waits_for_all_of_them() -> None:
    clock, asks = Clock(), caller(tokens_per_minute=600)
    allowances = Allowances(clock)
    allowances.take(asks, 5000)
    assert wait_of(lambda: allowances.take(asks, 5000)) == pytest.approx(500)


def test_a_refused_request_takes_nothing() -> None:
    asks = caller(requests_per_minute=10, tokens_per_minute=100)
    allowances = Allowances(Clock())
    allowances.take(asks, 90)
    wait_of(lambda: allowances.take(asks, 90))
    assert [left.remaining for left in allowances.left(asks)] == [9, 10]


def test_tasks_in_flight() -> None:
    asks, other = caller(max_in_flight=2), Caller("192.0.2.7", "lmaas_2")
    allowances = Allowances(Clock())
    allowances.begin(asks)
    allowances.begin(asks)
    allowances.begin(other)
    assert wait_of(lambda: allowances.begin(asks)) > 0
    allowances.end(asks)
    allowances.begin(asks)


def test_memory_is_bounded_and_callers_without_limits_need_none() -> None:
    allowances = Allowances(Clock())
    allowances.take(Caller("192.0.2.7", "lmaas_2"), 10**9)
    assert not allowances._buckets
    for number in range(MAX_CALLERS + 5):
        allowances.take(Caller("", f"lmaas_{number}", limits=Limits(requests_per_minute=1)), 1)
    assert len(allowances._buckets) == MAX_CALLERS
