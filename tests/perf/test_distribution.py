"""Percentiles are values that were measured, by the inverse of the distribution function."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.distribution import SHARES, Distribution

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=300)


def distribution(values: list[float], weights: list[float] | None = None) -> Distribution:
    found = Distribution.of(values, weights)
    assert found is not None
    return found


def test_of_a_hundred_values() -> None:
    found = distribution([float(value) for value in range(100, 0, -1)])
    assert (found.least, found.p50, found.p90, found.p95, found.p99, found.most) == (1, 50, 90, 95, 99, 100)
    assert (found.count, found.mean) == (100, 50.5)


def test_of_nothing() -> None:
    assert Distribution.of([]) is None


@given(VALUES)
def test_percentiles_are_numpy_s(values: list[float]) -> None:
    found = distribution(values)
    for name, share in SHARES.items():
        assert getattr(found, name) == np.percentile(values, 100 * share, method="inverted_cdf")


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 9)), min_size=1, max_size=60))
def test_a_weight_stands_for_so_many_values(weighed: list[tuple[float, int]]) -> None:
    values, weights = [value for value, _ in weighed], [float(weight) for _, weight in weighed]
    repeated = [value for value, weight in weighed for _ in range(weight)]
    once, often = distribution(values, weights), distribution(repeated)
    assert once.mean == pytest.approx(often.mean)
    for name in ("count", "least", "most", *SHARES):
        assert getattr(once, name) == getattr(often, name)
