"""`Attention` against NumPy over the same rounded keys and values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.library import SCALE_BYTES
from tests.kernels.sessions import run

pytestmark = pytest.mark.usefixtures("operators")

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
RANDOM = np.random.default_rng(0)
HEADS, CONTEXT = 3, 48


def attend(
    packed: Floats, size: int, lengths: list[int], total: int, cache: tuple[Bytes, Bytes] | None
) -> tuple[Floats, Bytes, Bytes]:
    """`packed` `[batch, sequence, 3, heads, size]`; lengths are those after the run."""
    rows = packed.reshape(-1, 3 * HEADS * size)
    seqlens, most = np.array(lengths, np.int32) - np.int32(1), np.array(total, np.int32)
    inputs: list[Any] = [rows, seqlens, most, *(cache or (None, None))]
    kinds: list[type] = [np.float32, np.uint8, np.uint8] if cache else [np.float32]
    found = run("Attention", inputs, {}, kinds, num_heads=HEADS, scale=size**-0.5)
    out = found[0].reshape(*packed.shape[:2], HEADS, size)
    return (out, found[1], found[2]) if cache else (out, np.empty(0, np.uint8), np.empty(0, np.uint8))


def empty(batch: int, size: int) -> tuple[Bytes, Bytes]:
    shape = (batch, HEADS, CONTEXT, size + SCALE_BYTES)
    # What lies beyond a row's tokens has no meaning: it must not matter.
    return RANDOM.integers(0, 256, shape).astype(np.uint8), RANDOM.integers(0, 256, shape).astype(np.uint8)


def rounded(x: Floats) -> Floats:
    """As the cache keeps it: whole numbers of -127 .. 127, each head's key or value with its own step."""
    step = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    return np.asarray(np.rint(x / step) * step, np.float32)


def expected(packed: Floats, size: int, *, cached: bool = True) -> Floats:
    """Causal attention over one row `[tokens, 3, heads, size]` from its beginning."""
    query, key, value = np.moveaxis(packed, 1, 0)
    if cached:
        key, value = rounded(key), rounded(value)
    scores = np.einsum("qhd,khd->hqk", query, key).astype(np.float64) * size**-0.5
    scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.asarray(np.einsum("hqk,khd->qhd", weights, value), np.float32)


def tokens(batch: int, sequence: int, size: int) -> Floats:
    return RANDOM.normal(size=(batch, sequence, 3, HEADS, size)).astype(np.float32)


@pytest.mark.parametrize("size", [8, 16, 20, 64, 72, 128, 256])
def test_a_prompt_then_chunks_then_single_tokens(size: int) -> None:
    row, cache = tokens(1, 41, size), empty(1, size)
    wanted, start = expected(row[0], size), 0
    for count in (19, 5, 1, 1, 14, 1):
        stop = start + count
        out, keys, values = attend(row[:, start:stop], size, [stop], stop, cache)
        cache = keys, values
        np.testing.assert_allclose(out[0], wanted[start : start + count], rtol=0, atol=2e-3)
        start += count


def test_padded_prompts_of_different_lengths_answer_as_alone() -> None:
    lengths, size = [17, 1, 30, 4], 64
    rows = tokens(4, 30, size)
    together, keys, values = attend(rows, size, lengths, 30, empty(4, size))
    for row, length in enumerate(lengths):
        alone, alone_keys, alone_values = attend(
            rows[row : row + 1, :length], size, [length], length, empty(1, size)
        )
        np.testing.assert_allclose(alone[0], together[row, :length], rtol=0, atol=1e-5)
        assert np.array_equal(alone_keys[0, :, :length], keys[row, :, :length])
        assert np.array_equal(alone_values[0, :, :length], values[row, :, :length])
        assert not together[row, length:].any()


def test_decoding_rows_of_different_lengths_is_bit_identical_to_alone() -> None:
    lengths, size = [20, 1, 48, 7, 33], 64
    cache = empty(5, size)
    for row, length in enumerate(lengths):
        if length > 1:
            past = tokens(1, length - 1, size)
            _, key, value = attend(
                past, size, [length - 1], length - 1, (cache[0][row : row + 1], cache[1][row : row + 1])
            )
            cache[0][row], cache[1][row] = key[0], value[0]
    new = tokens(5, 1, size)
    together, _, _ = attend(new, size, lengths, max(lengths), cache)
    for row, length in enumerate(lengths):
        one = (cache[0][row : row + 1], cache[1][row : row + 1])
        # A total that differs from the sequence says that this is no prompt.
        alone, _, _ = attend(new[row : row + 1], size, [length], max(length, 2), one)
        assert np.array_equal(alone[0], together[row])


@pytest.mark.parametrize("size", [8, 20, 64, 128])
def test_without_a_cache_nothing_is_rounded(size: int) -> None:
    rows = tokens(3, 21, size)
    out, _, _ = attend(rows, size, [21, 9, 1], 21, None)
    for row, length in enumerate([21, 9, 1]):
        wanted = expected(rows[row, :length], size, cached=False)
        np.testing.assert_allclose(out[row, :length], wanted, rtol=0, atol=1e-5)


def test_zeros_and_nan() -> None:
    out, _, _ = attend(np.zeros((1, 5, 3, HEADS, 64), np.float32), 64, [5], 5, empty(1, 64))
    assert not out.any()
    rows = tokens(1, 5, 64)
    rows[0, 2, 1] = np.nan
    out, _, _ = attend(rows, 64, [5], 5, empty(1, 64))
    assert np.isfinite(out[0, :2]).all()
    assert np.isnan(out[0, 2:]).all()


def attend_ragged(
    packed: Floats, counts: list[int], lengths: list[int], cache: tuple[Bytes, Bytes]
) -> tuple[Floats, Bytes, Bytes]:
    """`packed` `[tokens, 3, heads, size]`: the tokens of all rows, `counts` of each."""
    size = packed.shape[-1]
    seqlens, most = np.array(lengths, np.int32) - np.int32(1), np.array(max(lengths), np.int32)
    rows = packed.reshape(-1, 3 * HEADS * size)
    inputs: list[Any] = [rows, seqlens, most, *cache, np.array(counts, np.int32)]
    kinds: list[type] = [np.float32, np.uint8, np.uint8]
    out, keys, values = run("Attention", inputs, {}, kinds, num_heads=HEADS, scale=size**-0.5)
    return out.reshape(-1, HEADS, size), keys, values


def test_prompts_and_decoding_rows_in_one_run_are_bit_identical_to_each_alone() -> None:
    counts, lengths, size = [0, 7, 1, 0, 12, 1, 5, 1], [9, 7, 20, 1, 30, 1, 48, 48], 64
    packed, before = tokens(1, sum(counts), size)[0], empty(len(counts), size)
    for row, (count, length) in enumerate(zip(counts, lengths, strict=True)):
        if past := length - count:
            found = attend(tokens(1, past, size), size, [past], past, one(before, row))
            before[0][row], before[1][row] = found[1][0], found[2][0]
    together, *after = attend_ragged(packed, counts, lengths, before)
    start = 0
    for row, (count, length) in enumerate(zip(counts, lengths, strict=True)):
        if count == 0:
            assert all(np.array_equal(after[half][row], before[half][row]) for half in range(2))
            continue
        alone, *halves = attend(
            packed[None, start : start + count], size, [length], max(length, 2), one(before, row)
        )
        assert np.array_equal(alone[0], together[start : start + count])
        assert all(np.array_equal(after[half][row], halves[half][0]) for half in range(2))
        start += count


def one(cache: tuple[Bytes, Bytes], row: int) -> tuple[Bytes, Bytes]:
    return cache[0][row : row + 1], cache[1][row : row + 1]


def test_numbers_of_tokens_that_do_not_fit_are_refused() -> None:
    packed = tokens(1, 5, 64)[0]
    for counts, lengths in (([2, 2], [2, 2]), ([-1, 6], [2, 6]), ([4, 1], [3, 1]), ([5], [5, 5])):
        with pytest.raises(Exception, match="Attention: row_tokens"):
            attend_ragged(packed, counts, lengths, empty(2, 64))


def test_lengths_that_do_not_fit_are_refused() -> None:
    row = tokens(1, 2, 64)
    for lengths, total in (([1], 9), ([10], 9), ([0], 2), ([3], CONTEXT + 1)):
        with pytest.raises(Exception, match="Attention: "):
            attend(row, 64, lengths, total, empty(1, 64))
