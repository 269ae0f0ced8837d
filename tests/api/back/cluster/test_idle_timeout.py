"""How long is waited: idle seconds count, those of a busy machine or of a late event loop do not."""

from __future__ import annotations

import asyncio

import pytest

from api.back.cluster.idle_timeout import Activity, IdleTimeout, wait_for
from api.back.cluster.loading import MAX_LOAD_SECONDS, RELOAD_SECONDS, LoadLimit
from api.back.cluster.supervisor import MAX_RESTART_SECONDS, RESTART_SECONDS, RestartLimit

pytestmark = pytest.mark.anyio


def ticks_until_expired(timeout: IdleTimeout, *, elapsed: float, at_work: bool) -> int:
    for number in range(1, 1000):
        timeout.count(elapsed, at_work)
        if timeout.expired:
            return number
    raise AssertionError("never expired")


def test_idle_seconds_exhaust_it() -> None:
    timeout = IdleTimeout(5, 50)
    assert ticks_until_expired(timeout, elapsed=0.5, at_work=False) == 10
    assert timeout.reason == "it did nothing for 5 s"


def test_what_works_may_take_longer_but_not_for_ever() -> None:
    timeout = IdleTimeout(5, 50)
    assert ticks_until_expired(timeout, elapsed=0.5, at_work=True) == 100
    assert timeout.reason == "it was not done within 50 s"


def test_the_seconds_of_a_late_event_loop_do_not_count() -> None:
    assert ticks_until_expired(IdleTimeout(5, 50), elapsed=3, at_work=False) == 100


async def test_the_result_or_the_reason() -> None:
    async def answer() -> str:
        return "done"

    assert await wait_for(answer(), IdleTimeout(0.1, 1)) == "done"
    gate = asyncio.Event()
    with pytest.raises(asyncio.TimeoutError, match=r"it did nothing for 0\.1 s"):
        await wait_for(gate.wait(), IdleTimeout(0.1, 100))


async def test_work_that_fails_while_it_is_waited_for_raises() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError("not there")

    with pytest.raises(LookupError, match="not there"):
        await wait_for(fail(), IdleTimeout(1, 1))


async def test_activity_is_cpu_time_that_was_used() -> None:
    used = {7: 0.0}
    activity = Activity(lambda: dict(used))
    assert not await activity.seen()  # nothing to compare with
    assert not await activity.seen()
    used[7] = 5.0
    assert await activity.seen()
    used[8] = 0.0  # a process that has just begun
    assert await activity.seen()


def test_a_load_may_take_longer_after_each_that_failed() -> None:
    limit = LoadLimit(120)
    assert limit.seconds == 120
    limit.failed()
    assert limit.seconds == 240
    limit.succeeded(2)
    assert limit.seconds == RELOAD_SECONDS  # a quick load says little of the next one, on a slower machine
    limit.succeeded(20)
    assert limit.seconds == 80
    limit.succeeded(1)
    assert limit.seconds == 80  # by the slowest
    for _ in range(20):
        limit.failed()
    assert limit.seconds == MAX_LOAD_SECONDS


def test_a_server_is_restarted_more_and_more_seldom() -> None:
    limit = RestartLimit()
    taken = [moment for moment in range(0, 4000, 10) if limit.allows(float(moment))]
    assert taken[:4] == [0, RESTART_SECONDS, 3 * RESTART_SECONDS, 7 * RESTART_SECONDS]
    assert limit.allows(taken[-1] + 2 * MAX_RESTART_SECONDS)
    assert not limit.allows(taken[-1] + 2 * MAX_RESTART_SECONDS + RESTART_SECONDS / 2)
