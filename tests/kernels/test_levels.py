"""Every level that this processor can run gives the reference's answer, to the last bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.library import LIBRARY, SWITCH, level, missing, supported_levels, use_level
from tests.kernels.sessions import Array
from tests.kernels.test_argmax import best
from tests.kernels.test_attention import CONTEXT, HEADS, attend, attend_ragged
from tests.kernels.test_blocks import Weight, block_linear
from tests.kernels.test_linear import linear

pytestmark = pytest.mark.usefixtures("operators")

REFERENCE = "reference"
Floats = NDArray[np.float32]


@pytest.fixture(autouse=True)
def chosen() -> Iterator[None]:
    """The level of this process stays as it is for other tests."""
    before = level()
    yield
    if before is not None:
        use_level(before)


@pytest.fixture(params=[name for name in supported_levels() if name != REFERENCE] if not missing() else [])
def other(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def check_alike(other: str, answer: Callable[[], list[Array]]) -> None:
    """NaN counts as equal to NaN: its payload has no meaning."""
    assert use_level(REFERENCE)
    expected = answer()
    assert use_level(other)
    for wanted, found in zip(expected, answer(), strict=True):
        np.testing.assert_array_equal(found, wanted, strict=True)


def hostile_rows(random: np.random.Generator, rows: int, width: int) -> Floats:
    """Ordinary rows, then a NaN, an infinity, numbers near zero and near the largest, zeros, equal values."""
    x = random.normal(size=(rows, width)) * random.uniform(0.01, 100, (rows, 1))
    for row, (factor, add) in enumerate([(1, 0), (1e-40, 0), (1e35, 0), (0, 0), (0, 5), (0, -5)]):
        x[row % rows] = x[row % rows] * factor + add
    x[-1, random.integers(width)] = [np.nan, np.inf, -np.inf, 1e38][random.integers(4)]
    return x.astype(np.float32)


@pytest.mark.parametrize(
    ("width", "columns"), [(1, 1), (3, 5), (4, 16), (30, 47), (64, 48), (65, 49), (96, 100), (768, 33)]
)
@pytest.mark.parametrize("rows", [1, 2, 6, 7, 9, 13, 40])
def test_products(other: str, rows: int, width: int, columns: int) -> None:
    random = np.random.default_rng([rows, width, columns])
    case = int(random.integers(32))
    weight = random.integers(-128, 128, (width, columns)).astype(np.int8)
    if case & 1:  # the largest sums that there are
        weight = np.where(weight < 0, np.int8(-128), np.int8(127))
    bias, scales = random.normal(size=(2, columns)).astype(np.float32)
    gamma, beta = random.normal(size=(2, width)).astype(np.float32)
    residual = random.normal(size=(rows, columns)).astype(np.float32)
    x = hostile_rows(random, rows, width)

    def answer() -> list[Array]:
        found = linear(
            x,
            weight.T.copy() if case & 2 else weight,
            scales,
            bias=bias if case & 4 else None,
            norm=(gamma, beta) if case & 8 else None,
            residual=residual if case & 4 else None,
            lowest=-0.17 if case & 16 else None,
            transposed=bool(case & 2),
            gelu=bool(case & 1),
        )
        return [found]

    check_alike(other, answer)


@pytest.mark.parametrize("lowest", [None, 0.0])
def test_the_largest_sums_are_exact(other: str, lowest: float | None) -> None:
    """Whole numbers of 255 or +-127 times -128 and 127: a sum of 16 bits would saturate."""
    x = np.full((7, 64), 127 if lowest is None else 255, np.float32)
    if lowest is None:
        x[1::2] *= -1
    weight = np.full((64, 20), 127, np.int8)
    weight[:, ::2] = -128
    assert use_level(other)
    found = linear(x, weight, np.ones(20, np.float32), lowest=lowest)
    np.testing.assert_array_equal(found, x.astype(np.int64) @ weight.astype(np.int64))


@pytest.mark.parametrize(("width", "columns"), [(1, 1), (30, 47), (64, 48), (65, 49), (768, 33)])
@pytest.mark.parametrize("rows", [1, 2, 5, 9, 40])
def test_products_of_four_bits(other: str, rows: int, width: int, columns: int) -> None:
    random = np.random.default_rng([rows, width, columns])
    case = int(random.integers(16))
    weight = Weight(width, columns, random)
    if case & 1:  # the largest sums that there are
        weight.nibbles = np.where(weight.nibbles < 8, np.uint8(0), np.uint8(15))
        weight.factors = np.where(weight.factors < 0, np.int8(-128), np.int8(127))
    bias, residual = random.normal(size=columns).astype(np.float32), random.normal(size=(rows, columns))
    gamma, beta = random.normal(size=(2, width)).astype(np.float32)
    x = hostile_rows(random, rows, width)

    def answer() -> list[Array]:
        found = block_linear(
            x,
            weight,
            bias=bias if case & 2 else None,
            norm=(gamma, beta) if case & 4 else None,
            residual=residual.astype(np.float32) if case & 2 else None,
            lowest=-0.17 if case & 8 else None,
            gelu=bool(case & 1),
        )
        return [found]

    check_alike(other, answer)


@pytest.mark.parametrize("size", [4, 8, 16, 20, 60, 64, 72, 128, 252, 256])
@pytest.mark.parametrize("factor", [1, 1e-42, 1e37])
def test_attention_over_a_cache(other: str, size: int, factor: float) -> None:
    random = np.random.default_rng(size)
    row = (random.normal(size=(1, 41, 3, HEADS, size)) * factor).astype(np.float32)
    if factor == 1:
        row[0, 37, 2, 0, 1] = np.nan
        row[0, 40, 0, 1, 0] = np.inf
    memory = random.integers(0, 256, (2, 1, HEADS, CONTEXT, size + 4)).astype(np.uint8)

    def answer() -> list[Array]:
        found: list[Array] = []
        cache, start = (memory[0].copy(), memory[1].copy()), 0
        for count in (19, 5, 1, 1, 14, 1):
            stop = start + count
            out, *halves = attend(row[:, start:stop], size, [stop], max(stop, 2), cache)
            cache = halves[0], halves[1]
            kept = [half[:, :, :stop] for half in cache]
            found += [out, *(half[..., :size] for half in kept)]
            found += [np.ascontiguousarray(half[..., size:]).view(np.float32) for half in kept]
            start = stop
        return found

    check_alike(other, answer)


@pytest.mark.parametrize("size", [8, 20, 64, 128])
def test_attention_without_a_cache(other: str, size: int) -> None:
    rows = np.random.default_rng(size).normal(size=(3, 21, 3, HEADS, size)).astype(np.float32)
    check_alike(other, lambda: [attend(rows, size, [21, 9, 1], 21, None)[0]])


def test_attention_of_rows_with_different_numbers_of_tokens(other: str) -> None:
    random = np.random.default_rng(0)
    counts, lengths = [6, 0, 1, 13, 1], [30, 5, 48, 13, 1]
    packed = random.normal(size=(sum(counts), 3, HEADS, 20)).astype(np.float32)
    # What is in a cache has a step, a float32, behind each row.
    whole = random.integers(0, 256, (2, len(counts), HEADS, CONTEXT, 20)).astype(np.uint8)
    steps = random.uniform(0.01, 1, (*whole.shape[:-1], 1)).astype(np.float32).view(np.uint8)
    keys, values = np.concatenate([whole, steps], axis=-1)
    check_alike(other, lambda: list(attend_ragged(packed, counts, lengths, (keys, values))))


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 300, 5003])
def test_choice_and_logarithm(other: str, columns: int) -> None:
    x = (np.random.default_rng(columns).normal(size=(9, columns)) * 20).astype(np.float32)
    x[1, columns // 2] = np.nan
    x[2, columns - 1] = np.inf
    x[3:6] = [[-np.inf], [-200], [1e30]]
    check_alike(other, lambda: list(best(x)))


def forced(word: str) -> str:
    """What a process says that starts with LMAAS_KERNELS at `word`."""
    program = (
        "from kernels.library import level, LevelError\ntry: print(level())\nexcept LevelError as e: print(e)"
    )
    environment = {**os.environ, SWITCH: word}
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, cwd=LIBRARY.parents[1], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_setting_forces_a_level() -> None:
    assert [forced(name) for name in supported_levels()] == supported_levels()
