"""When requests leave is known before the first of them does."""

from __future__ import annotations

from itertools import pairwise
from statistics import mean, pstdev

import pytest

from perf.http.schedule import Arrivals, Extent, intended_times


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
