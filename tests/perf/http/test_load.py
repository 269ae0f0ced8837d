"""Both loops against a real server: when they send, what they measure, and how they end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import cycle, pairwise
from statistics import mean, pstdev
from typing import Any

import pytest

from perf.http.load import REFUSED_SECONDS, Arrivals, ClosedLoop, Extent, OpenLoop, Run, intended_times
from perf.http.wire import Exchange, Failure, Origin
from tests.perf.http.server import Answer, Drop, Pause, Step, serving, whole

pytestmark = pytest.mark.anyio


def ok(_: Any) -> list[Step]:
    return whole(b"{}")


def after(seconds: float) -> Answer:
    def answer(_: Any) -> list[Step]:
        return [Pause(seconds), *whole(b"{}")]

    return answer


async def closed(answer: Answer, concurrency: int, extent: Extent, timeout: float = 5.0) -> Run:
    async with serving(answer) as server:
        origin = Origin.parse(server.url)
        run = await ClosedLoop(origin, cycle([origin.post("/", b"{}")]), extent, timeout, concurrency).run()
        assert server.connections <= concurrency + sum(not exchange.succeeded for exchange in run.exchanges)
        return run


async def opened(answer: Answer, times: list[float], extent: Extent, timeout: float = 5.0) -> Run:
    async with serving(answer) as server:
        origin = Origin.parse(server.url)
        return await OpenLoop(origin, cycle([origin.post("/", b"{}")]), extent, timeout, times).run()


def measured(run: Run) -> list[Exchange]:
    """Those that were intended within the window."""
    return [exchange for exchange in run.exchanges if exchange.intended >= run.begin]


async def test_callers_begin_one_by_one() -> None:
    extent, due = Extent(0.4, 0.2), [-0.4, -0.35, -0.3, -0.25]
    assert [extent.begin(caller, 4) - 0.4 for caller in range(4)] == pytest.approx(due)
    run = await closed(after(5), 4, extent, timeout=0.5)
    begun = sorted(exchange.intended - run.begin for exchange in run.exchanges)[:4]
    # A busy machine makes them late, and none early.
    assert all(at - wanted > -0.01 for at, wanted in zip(begun, due, strict=True))


async def test_a_closed_loop_keeps_so_many_under_way() -> None:
    run = await closed(after(0.05), 4, Extent(0, 0.5))
    for exchange in run.exchanges:
        under_way = sum(
            other.intended <= exchange.intended < other.ended for other in run.exchanges if other.succeeded
        )
        assert under_way <= 4
    assert 4 <= len(run.exchanges) <= 44  # ten rounds of four, and fewer on a busy machine


async def test_a_closed_loop_of_so_many_requests() -> None:
    run = await closed(ok, 3, Extent(0, 0, requests=50))
    assert len(measured(run)) == 50
    assert all(exchange.succeeded for exchange in measured(run))
    assert run.end == max(exchange.ended for exchange in run.exchanges)


async def test_fewer_requests_than_callers() -> None:
    run = await closed(ok, 8, Extent(0, 0, requests=3))
    assert len(run.exchanges) == 3


async def test_the_warm_up_is_not_measured() -> None:
    run = await closed(after(0.02), 2, Extent(0.2, 0.2))
    warm = [exchange for exchange in run.exchanges if exchange.intended < run.begin]
    assert warm
    assert len(warm) + len(measured(run)) == len(run.exchanges)
    assert run.end == run.begin + 0.2


async def test_the_last_answers_are_waited_for() -> None:
    run = await closed(after(0.3), 2, Extent(0, 0.1))
    assert [exchange.succeeded for exchange in run.exchanges] == [True, True]
    assert min(exchange.ended for exchange in run.exchanges) > run.end


async def test_who_is_refused_waits_a_little() -> None:
    run = await closed(lambda body: whole(b"", "429 Too Many Requests"), 1, Extent(0, 3.5 * REFUSED_SECONDS))
    assert 1 <= len(run.exchanges) <= 4
    assert {exchange.status for exchange in run.exchanges} == {429}


async def test_a_server_that_is_not_there() -> None:
    async with serving(ok) as server:
        origin = Origin.parse(server.url)
    run = await ClosedLoop(origin, cycle([b""]), Extent(0, 0.1), 1.0, 2).run()
    assert {exchange.failure for exchange in run.exchanges} == {Failure.CANNOT_CONNECT}


async def test_a_connection_that_was_dropped_is_replaced() -> None:
    answers: Iterator[list[Step]] = cycle([whole(b"{}"), [Drop]])

    def answer(_: Any) -> Iterable[Step]:
        return next(answers)

    run = await closed(answer, 1, Extent(0, 0, requests=4))
    assert [exchange.failure for exchange in run.exchanges] == [None, Failure.DROPPED, None, Failure.DROPPED]


async def test_an_open_loop_sends_by_its_schedule() -> None:
    times = intended_times(100, Arrivals.POISSON, "a", Extent(0, 0.5))
    run = await opened(ok, times, Extent(0, 0.5))
    start = run.begin
    assert [exchange.intended - start for exchange in run.exchanges] == pytest.approx(times)
    assert all(exchange.sent >= exchange.intended for exchange in run.exchanges)
    # A busy machine makes most of them late, but not all.
    assert min(exchange.sent - exchange.intended for exchange in run.exchanges) < 0.005


async def test_an_open_loop_waits_for_no_answer() -> None:
    """No request is answered before the last of them has come."""
    times, came = [0.01 * number for number in range(20)], 0

    def answer(_: Any) -> Iterator[Step]:
        nonlocal came
        came += 1
        while came < len(times):
            yield Pause(0.005)
        yield from whole(b"{}")

    run = await opened(answer, times, Extent(0, 0.2))
    assert [exchange.succeeded for exchange in run.exchanges] == [True] * len(times)


async def test_what_was_sent_late_counts_from_when_it_was_wanted() -> None:
    """No coordinated omission: the client itself is held up, and the latencies tell of it."""
    held_up = 0.2

    def answer(_: Any) -> list[Step]:
        if not stalled:  # server and client share this thread: nothing is sent meanwhile
            stalled.append(True)
            time.sleep(held_up)
        return whole(b"{}")

    stalled: list[bool] = []
    run = await opened(answer, [0.01 * number for number in range(15)], Extent(0, 0.15))
    latencies = [exchange.ended - exchange.intended for exchange in run.exchanges]
    for place, latency in enumerate(latencies[2:12], 2):
        assert latency > held_up - 0.01 * place - 0.02


async def test_an_open_loop_without_arrivals() -> None:
    run = await opened(ok, [], Extent(0, 0.1))
    assert run.exchanges == []


def test_a_seed_gives_the_same_times_again() -> None:
    extent = Extent(1, 10)
    times = intended_times(50, Arrivals.POISSON, "7", extent)
    assert times == intended_times(50, Arrivals.POISSON, "7", extent)
    assert times != intended_times(50, Arrivals.POISSON, "8", extent)


def test_poisson_gaps_are_exponential() -> None:
    times = intended_times(200, Arrivals.POISSON, "gaps", Extent(0, 100))
    gaps = [after - before for before, after in pairwise(times)]
    assert mean(gaps) == pytest.approx(1 / 200, rel=0.03)
    assert pstdev(gaps) == pytest.approx(1 / 200, rel=0.05)  # of an exponential: as large as the mean
    assert sum(gap > 1 / 200 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.02)  # 1 / e


def test_constant_times_do_not_drift() -> None:
    times = intended_times(3, Arrivals.CONSTANT, "", Extent(0, 1000))
    assert len(times) == 3000
    assert times[2997] == 999.0


@pytest.mark.parametrize("arrivals", Arrivals)
def test_a_window_is_seconds_after_the_warm_up(arrivals: Arrivals) -> None:
    times = intended_times(100, arrivals, "a", Extent(2, 3))
    assert times == sorted(times)
    assert times[0] < 0.2
    assert 4.8 < times[-1] < 5


@pytest.mark.parametrize("arrivals", Arrivals)
def test_requests_are_counted_from_the_end_of_the_warm_up(arrivals: Arrivals) -> None:
    times = intended_times(100, arrivals, "a", Extent(2, 3, requests=17))
    assert sum(time >= 2 for time in times) == 17
    assert sum(time < 2 for time in times) > 100
