"""`BlockLinear` against NumPy: weights of four bits in blocks, exact where every value is a whole number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.sessions import run

pytestmark = pytest.mark.usefixtures("operators")

Floats = NDArray[np.float32]
BLOCK = 32
RANDOM = np.random.default_rng(0)


class Weight:
    """`[width, columns]`: random nibbles and factors, in the layout of MatMulNBits."""

    def __init__(self, width: int, columns: int, random: np.random.Generator = RANDOM) -> None:
        blocks = -(-width // BLOCK)
        self.nibbles = random.integers(0, 16, (columns, blocks * BLOCK)).astype(np.uint8)
        self.factors = random.integers(-127, 128, (columns, blocks)).astype(np.int8)
        self.scales = random.uniform(0.5, 2, (columns, 1)).astype(np.float32)
        self.width = width

    @property
    def packed(self) -> NDArray[np.uint8]:
        pairs = self.nibbles.reshape(*self.factors.shape, BLOCK // 2, 2)
        return np.asarray(pairs[..., 0] | pairs[..., 1] << 4)

    @property
    def whole(self) -> NDArray[np.int64]:
        """The weight without its scales."""
        factors = np.repeat(self.factors.astype(np.int64), BLOCK, axis=1)
        return np.asarray(((self.nibbles.astype(np.int64) - 8) * factors).T[: self.width])


def block_linear(
    x: Floats,
    weight: Weight,
    *,
    bias: Floats | None = None,
    norm: tuple[Floats, Floats] | None = None,
    residual: Floats | None = None,
    lowest: float | None = None,
    gelu: bool = False,
    width: int | None = None,
) -> Floats:
    constants: dict[int, Any] = {1: weight.packed, 2: weight.scales, 7: weight.factors}
    if bias is not None:
        constants[3] = bias
    if norm is not None:
        constants[4], constants[5] = norm
    numbers = {"width": width or weight.width, "gelu": int(gelu), "epsilon": 1e-5}
    numbers |= {"above_lowest": int(lowest is not None), "lowest": float(lowest or 0)}
    inputs = [x, None, None, None, None, None, residual, None]
    (found,) = run("BlockLinear", inputs, constants, [np.float32], **numbers)
    return found


def whole_rows(rows: int, width: int) -> Floats:
    """Whole numbers up to 127, which every row holds: rounding has nothing to do."""
    x = RANDOM.integers(-127, 128, (rows, width)).astype(np.float32)
    x[:, 0] = 127
    return x


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9, 17])
@pytest.mark.parametrize(("width", "columns"), [(4, 1), (30, 47), (64, 48), (65, 49), (160, 133)])
def test_whole_numbers_are_exact(rows: int, width: int, columns: int) -> None:
    x, weight = whole_rows(rows, width), Weight(width, columns)
    exact = (x.astype(np.int64) @ weight.whole) * weight.scales[:, 0]
    np.testing.assert_allclose(block_linear(x, weight), exact, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("lowest", [None, 0.0])
def test_the_largest_sums_are_exact(lowest: float | None) -> None:
    """Every block at the end of 16 bits, and 256 of them near the end of 32."""
    weight = Weight(BLOCK * 256, 20)
    weight.nibbles[:] = np.where(np.arange(20) % 2, 15, 0)[:, None]
    weight.factors[:] = np.where(np.arange(20) % 3, 127, -127)[:, None]
    weight.scales[:] = 1
    x = np.full((5, weight.width), 127 if lowest is None else 254, np.float32)
    if lowest is None:
        x[1::2] *= -1
    exact = (x.astype(np.int64) @ weight.whole).astype(np.float32)
    assert abs(exact).max() > 1e9
    np.testing.assert_array_equal(block_linear(x, weight, lowest=lowest), exact)


def test_bias_and_residual_are_added() -> None:
    x, weight = whole_rows(5, 40), Weight(40, 50)
    bias, residual = RANDOM.normal(size=50).astype(np.float32), RANDOM.normal(size=(5, 50)).astype(np.float32)
    exact = (x.astype(np.int64) @ weight.whole) * weight.scales[:, 0] + bias + residual
    found = block_linear(x, weight, bias=bias, residual=residual)
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-2)


def test_values_above_a_floor_have_255_steps() -> None:
    """And the product is that of the values themselves: nothing is left to take off."""
    lowest = -0.25
    whole = RANDOM.integers(0, 255, (6, 40))
    whole[:, 3] = 254
    weight = Weight(40, 50)
    found = block_linear(whole.astype(np.float32) + np.float32(lowest), weight, lowest=lowest)
    np.testing.assert_allclose(
        found, ((whole + lowest) @ weight.whole) * weight.scales[:, 0], rtol=1e-5, atol=0.1
    )


def test_the_norm_comes_first_and_gelu_last() -> None:
    x = (RANDOM.normal(size=(9, 64)) * 3 + 1).astype(np.float32)
    gamma, beta = RANDOM.normal(size=(2, 64)).astype(np.float32)
    weight = Weight(64, 64)
    weight.nibbles[:] = 8 + np.eye(64, dtype=np.uint8)
    weight.factors[:], weight.scales[:] = 127, 1 / 127
    found = block_linear(x, weight, norm=(gamma, beta), gelu=True)
    mean, deviation = x.mean(axis=1, keepdims=True), np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    normed = (x - mean) / deviation * gamma + beta
    exact = 0.5 * normed * (1 + np.tanh(np.sqrt(2 / np.pi) * (normed + 0.044715 * normed**3)))
    step = np.abs(normed).max() / 127
    assert np.abs(found - exact).max() <= 0.6 * step  # GELU is at most 1.13 times as steep


def test_a_row_does_not_see_the_others() -> None:
    x = RANDOM.normal(size=(37, 100)).astype(np.float32) * RANDOM.uniform(0.01, 100, (37, 1)).astype(
        np.float32
    )
    weight = Weight(100, 77)
    together = block_linear(x, weight, lowest=-9.0)
    for size in (1, 2, 3, 5, 8, 13):
        parts = [block_linear(x[at : at + size], weight, lowest=-9.0) for at in range(0, 37, size)]
        assert np.array_equal(np.concatenate(parts), together)


def test_rows_of_zeros_are_zero_and_a_nan_stays_one() -> None:
    x = whole_rows(4, 32)
    x[1] = 0
    x[2, 7] = np.nan
    x[3, 9] = np.inf
    found = block_linear(x, Weight(32, 48))
    assert np.isfinite(found[0]).all()
    assert np.array_equal(found[1], np.zeros(48))
    assert np.isnan(found[2:]).all()


def test_what_does_not_fit_is_refused() -> None:
    weight = Weight(32, 48)
    with pytest.raises(Exception, match=r"x must be \[rows, in\]"):
        block_linear(np.zeros((1, 33), np.float32), weight)
    with pytest.raises(Exception, match="up to 256 blocks of 32"):
        block_linear(np.zeros((1, 33), np.float32), weight, width=33)
    with pytest.raises(Exception, match="up to 256 blocks of 32"):
        block_linear(np.zeros((1, 257 * 32), np.float32), Weight(257 * 32, 1))
    weight.scales = weight.scales[:47]
    with pytest.raises(Exception, match="do not fit the weight"):
        block_linear(np.zeros((1, 32), np.float32), weight)
