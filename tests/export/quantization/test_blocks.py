"""Weights of four bits: the grid they are on, and what fitting them to their inputs wins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from export.quantization.blocks import BLOCK, RoundedBlocks, round_blocks

Floats = NDArray[np.float32]
RANDOM = np.random.default_rng(0)


def restored(rounded: RoundedBlocks, width: int) -> NDArray[np.float64]:
    """`[in, out]`, as the graph's operators compute it."""
    scales = rounded.factors.astype(np.float32) * rounded.steps[:, None]
    values = (rounded.nibbles.astype(np.float64) - 8) * scales[:, :, None]
    return np.asarray(values.reshape(len(values), -1)[:, :width].T)


@settings(deadline=None)
@given(
    weight=arrays.arrays(
        np.float32, st.tuples(st.integers(1, 70), st.integers(1, 4)), elements=st.floats(-100, 100, width=32)
    )
)
def test_rounding_error_is_small(weight: Floats) -> None:
    """A step is up to 1.1 times an eighth of its block's largest weight, or cuts that off at 0.7 of it."""
    rounded = round_blocks(weight)
    found = restored(rounded, len(weight))
    assert np.abs(rounded.factors.astype(int)).max() <= 127
    column = np.abs(weight).max(axis=0)
    # By a factor that is rounded: 8 steps of half a 127th of the column's largest step.
    assert np.all(np.abs(found - weight) <= 0.31 * np.abs(weight) + 0.075 * column + 2e-36)
    assert np.all(found[weight == 0] == 0)


def test_what_the_grid_holds_is_kept() -> None:
    whole = RANDOM.integers(-8, 8, (96, 5))
    whole[::BLOCK] = -8
    factors = np.repeat(RANDOM.integers(1, 128, (3, 5)), BLOCK, axis=0)
    factors[:BLOCK] = 127
    weight = (whole * factors * 0.25).astype(np.float32)
    found = restored(round_blocks(weight), 96)
    np.testing.assert_allclose(found, weight, rtol=1e-6)


def correlated(tokens: int, width: int) -> Floats:
    """Inputs of which a few directions hold the most, as in trained models."""
    mixed = RANDOM.normal(size=(width // 4, width)) * RANDOM.uniform(0.1, 3, (width // 4, 1))
    return np.asarray(
        RANDOM.normal(size=(tokens, width // 4)) @ mixed + 0.1 * RANDOM.normal(size=(tokens, width)),
        np.float32,
    )


@pytest.mark.parametrize("width", [64, 77])
def test_products_lose_less_with_a_gram_matrix(width: int) -> None:
    """On other inputs than those that the matrix is of."""
    fitted, others = np.split(correlated(1024, width), 2)
    weight = RANDOM.normal(size=(width, 40)).astype(np.float32)
    exact = others @ weight
    errors = [
        float(np.square(others @ restored(round_blocks(weight, gram), width) - exact).mean())
        for gram in (None, fitted.T @ fitted)
    ]
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("rank", [0, 3])
def test_inputs_that_say_little_do_no_harm(rank: int) -> None:
    """No text, or fewer tokens than channels."""
    x = RANDOM.normal(size=(rank, 64)).astype(np.float32)
    weight = RANDOM.normal(size=(64, 40)).astype(np.float32)
    found = restored(round_blocks(weight, x.T @ x), 64)
    assert np.isfinite(found).all()
    assert np.sqrt(np.square(found - weight).mean()) < 0.25
