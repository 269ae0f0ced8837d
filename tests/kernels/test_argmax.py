"""`ArgMaxLogSumExp` against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.sessions import run

pytestmark = pytest.mark.usefixtures("operators")

RANDOM = np.random.default_rng(0)


def best(x: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    place, log_sum = run("ArgMaxLogSumExp", [x], {}, [np.int64, np.float32])
    return place, log_sum


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 300, 50257])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_place_and_sum(rows: int, columns: int) -> None:
    x = (RANDOM.normal(size=(rows, columns)) * 20).astype(np.float32)
    place, log_sum = best(x)
    assert np.array_equal(place, x.argmax(axis=1))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(log_sum, np.logaddexp.reduce(wide, axis=1), rtol=1e-6, atol=1e-5)


def test_of_equal_values_the_first() -> None:
    x = np.zeros((2, 70), np.float32)
    x[1, [33, 34, 69]] = 2
    assert best(x)[0].tolist() == [0, 33]


def test_a_nan_is_found_and_an_infinity_below_is_nothing() -> None:
    x = np.zeros((2, 70), np.float32)
    x[0, [40, 41]] = np.nan
    x[1, 1:] = -np.inf
    place, log_sum = best(x)
    assert place.tolist() == [40, 0]
    assert np.isnan(log_sum[0])
    assert log_sum[1] == 0
