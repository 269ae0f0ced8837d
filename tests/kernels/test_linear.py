"""`Linear` against NumPy: exact where every value is a whole number, and each row by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.sessions import run

pytestmark = pytest.mark.usefixtures("operators")

Floats = NDArray[np.float32]
RANDOM = np.random.default_rng(0)


def linear(
    x: Floats,
    weight: NDArray[np.int8],
    scales: Floats,
    *,
    bias: Floats | None = None,
    norm: tuple[Floats, Floats] | None = None,
    residual: Floats | None = None,
    lowest: float | None = None,
    transposed: bool = False,
    gelu: bool = False,
) -> Floats:
    constants: dict[int, Any] = {1: weight, 2: scales}
    if bias is not None:
        constants[3] = bias
    if norm is not None:
        constants[4], constants[5] = norm
    numbers = {"transposed": int(transposed), "gelu": int(gelu), "epsilon": 1e-5}
    numbers |= {"above_lowest": int(lowest is not None), "lowest": float(lowest or 0)}
    inputs = [x, None, None, None, None, None, residual]
    (found,) = run("Linear", inputs, constants, [np.float32], **numbers)
    return found


def whole_rows(rows: int, width: int) -> Floats:
    """Whole numbers up to 127, which every row holds: rounding has nothing to do."""
    x = RANDOM.integers(-127, 128, (rows, width)).astype(np.float32)
    x[:, 0] = 127
    return x


def weights(width: int, columns: int) -> tuple[NDArray[np.int8], Floats]:
    weight = RANDOM.integers(-127, 128, (width, columns)).astype(np.int8)
    return weight, RANDOM.uniform(0.5, 2, columns).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 40])
@pytest.mark.parametrize(("width", "columns"), [(4, 1), (30, 47), (64, 48), (65, 49), (96, 333)])
@pytest.mark.parametrize("transposed", [False, True])
def test_whole_numbers_are_exact(rows: int, width: int, columns: int, transposed: bool) -> None:
    x, (weight, scales) = whole_rows(rows, width), weights(width, columns)
    found = linear(x, weight.T.copy() if transposed else weight, scales, transposed=transposed)
    exact = (x.astype(np.int64) @ weight.astype(np.int64)) * scales
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_bias_and_residual_are_added() -> None:
    x, (weight, scales) = whole_rows(5, 32), weights(32, 50)
    bias, residual = RANDOM.normal(size=50).astype(np.float32), RANDOM.normal(size=(5, 50)).astype(np.float32)
    found = linear(x, weight, scales, bias=bias, residual=residual)
    exact = (x.astype(np.int64) @ weight.astype(np.int64)) * scales + bias + residual
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-3)


def test_values_above_a_floor_have_256_steps() -> None:
    lowest = -0.25
    whole = RANDOM.integers(0, 256, (6, 40))
    whole[:, 3] = 255
    weight, scales = weights(40, 50)
    found = linear(whole.astype(np.float32) + np.float32(lowest), weight, scales, lowest=lowest)
    # What the floor adds to every column is the caller's to take off, with the bias.
    np.testing.assert_allclose(found, (whole @ weight.astype(np.int64)) * scales, rtol=1e-6)


def test_gelu_is_that_of_gpt2() -> None:
    weight = np.eye(64, dtype=np.int8)
    scales = np.full(64, 1 / 16, np.float32)
    x = whole_rows(8, 64)
    found = linear(x, weight, scales, gelu=True)
    value = x.astype(np.float64) / 16
    exact = 0.5 * value * (1 + np.tanh(np.sqrt(2 / np.pi) * (value + 0.044715 * value**3)))
    np.testing.assert_allclose(found, exact, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("width", [30, 64, 768])
def test_the_norm_comes_first(width: int) -> None:
    x = (RANDOM.normal(size=(9, width)) * 3 + 1).astype(np.float32)
    gamma, beta = RANDOM.normal(size=(2, width)).astype(np.float32)
    weight = np.eye(width, dtype=np.int8)
    found = linear(x, weight, np.ones(width, np.float32), norm=(gamma, beta))
    mean, deviation = x.mean(axis=1, keepdims=True), np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    normed = (x - mean) / deviation * gamma + beta
    step = np.abs(normed).max(axis=1, keepdims=True) / 127
    assert np.abs(found - normed).max() <= 0.501 * step.max()


def test_a_row_does_not_see_the_others() -> None:
    x = RANDOM.normal(size=(37, 100)).astype(np.float32) * RANDOM.uniform(0.01, 100, (37, 1)).astype(
        np.float32
    )
    weight, scales = weights(100, 77)
    norm = (np.ones(100, np.float32), np.zeros(100, np.float32))
    together = linear(x, weight, scales, norm=norm, gelu=True)
    for size in (1, 2, 3, 5, 8, 13):
        parts = [linear(x[at : at + size], weight, scales, norm=norm, gelu=True) for at in range(0, 37, size)]
        assert np.array_equal(np.concatenate(parts), together)


def test_rows_of_zeros_are_zero_and_a_nan_stays_one() -> None:
    x = whole_rows(4, 32)
    x[1] = 0
    x[2, 7] = np.nan
    x[3, 9] = np.inf
    weight, scales = weights(32, 48)
    found = linear(x, weight, scales)
    assert np.isfinite(found[0]).all()
    assert np.array_equal(found[1], np.zeros(48))
    assert np.isnan(found[2:]).all()


def test_no_rows() -> None:
    weight, scales = weights(32, 48)
    assert linear(np.zeros((0, 32), np.float32), weight, scales).shape == (0, 48)


def test_what_does_not_fit_is_refused() -> None:
    weight, scales = weights(32, 48)
    with pytest.raises(Exception, match=r"x must be \[rows, in\]"):
        linear(np.zeros((1, 33), np.float32), weight, scales)
    with pytest.raises(Exception, match="do not fit the weight"):
        linear(np.zeros((1, 32), np.float32), weight, scales[:47])
    with pytest.raises(Exception, match=r"residual must be \[rows, out\]"):
        linear(np.zeros((1, 32), np.float32), weight, scales, residual=np.zeros((1, 47), np.float32))
