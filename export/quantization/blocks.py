"""Weights to four bits in blocks, so that the products on calibration texts change least.

One weight of a column is rounded after the other. What that changes in the products is made up for by the
weights that are not rounded yet: GPTQ (Frantar et al., 2022, arXiv 2210.17323). Factors are chosen before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCK = 32  # weights of a column that share a factor
LARGEST_FACTOR = 127
_MIDDLE, _LEAST, _MOST = 8, -8, 7  # the nibble that stands for 0; a weight in steps of its block
# The step of a block: its largest weight in 8 steps, or in more or fewer.
_SHRINKING = np.linspace(0.7, 1.1, 9, dtype=np.float32)
_DAMPING = 0.01  # of the mean of the Gram matrix' diagonal, added to it
_COLUMNS = 256  # whose factors are searched at once


@dataclass(frozen=True, slots=True)
class RoundedBlocks:
    """A weight is about (nibble - 8) * factor * step; those beyond the last row of the matrix are 0."""

    nibbles: NDArray[np.uint8]  # [out, blocks, BLOCK]
    factors: NDArray[np.int8]  # [out, blocks]
    steps: Floats  # [out]


def round_blocks(weight: Floats, gram: Floats | None = None) -> RoundedBlocks:
    """Round a weight `[in, out]` for inputs with the Gram matrix `[in, in]`; without it, each by itself."""
    width_in, width_out = weight.shape
    blocks = -(-width_in // BLOCK)
    importance = np.ones(width_in, np.float32) if gram is None else gram.diagonal()
    scales = np.concatenate(
        [
            _search_scales(weight[:, start : start + _COLUMNS], importance)
            for start in range(0, width_out, _COLUMNS)
        ],
        axis=1,
    )
    steps = np.abs(scales).max(axis=0) / np.float32(LARGEST_FACTOR)
    factors = np.rint(scales * _inverse(steps))
    scales = np.repeat(factors * steps, BLOCK, axis=0)[:width_in]
    whole = _nearest(weight, _inverse(scales)) if gram is None else _compensated(weight, scales, gram)
    nibbles = np.full((blocks * BLOCK, width_out), _MIDDLE, np.uint8)
    nibbles[:width_in] = whole + _MIDDLE
    by_column = np.ascontiguousarray(nibbles.T).reshape(width_out, blocks, BLOCK)
    return RoundedBlocks(by_column, np.ascontiguousarray(factors.T).astype(np.int8), steps)


def _search_scales(weight: Floats, importance: Floats) -> Floats:
    """`[blocks, columns]`: the step of each block with the least squared error, by importance of rows."""
    width_in, columns = weight.shape
    blocks = -(-width_in // BLOCK)
    padded = np.zeros((blocks * BLOCK, columns), np.float32)
    padded[:width_in] = weight
    grouped = padded.reshape(blocks, BLOCK, columns)
    factors = np.zeros((blocks * BLOCK, 1), np.float32)
    factors[:width_in, 0] = importance / np.maximum(importance.max(), np.finfo(np.float32).tiny)
    factors = factors.reshape(blocks, BLOCK, 1)
    largest = np.take_along_axis(grouped, np.abs(grouped).argmax(axis=1)[:, None], axis=1)[:, 0]
    least = np.full((blocks, columns), np.inf, np.float32)
    best = np.zeros((blocks, columns), np.float32)
    for shrinking in _SHRINKING:
        for sign in (-1, 1):  # there is a step more below 0 than above
            scales = largest * (shrinking / (sign * _MIDDLE))
            error = grouped - _nearest(grouped, _inverse(scales)[:, None]) * scales[:, None]
            lost = (factors * error * error).sum(axis=1)
            better = lost < least
            least[better], best[better] = lost[better], scales[better]
    return best


def _compensated(weight: Floats, scales: Floats, gram: Floats) -> Floats:
    """Whole numbers `[in, out]` for a weight with the steps `scales`, all `[in, out]`."""
    width = len(weight)
    rest, inverse = weight.astype(np.float32), _inverse(scales)
    spread = _spread(gram)
    whole = np.empty_like(rest)
    for start in range(0, width, BLOCK):
        end = min(start + BLOCK, width)
        errors = np.empty((end - start, rest.shape[1]), np.float32)
        for row in range(start, end):
            whole[row] = _nearest(rest[row], inverse[row])
            error = (rest[row] - whole[row] * scales[row]) / spread[row, row]
            rest[row + 1 : end] -= np.outer(spread[row, row + 1 : end], error)
            errors[row - start] = error
        rest[end:] -= spread[start:end, end:].T @ errors
    return whole


def _spread(gram: Floats) -> Floats:
    """The upper Cholesky factor of the inverse: how the error of a row is shared among the rows after it."""
    damped = gram.astype(np.float64)
    mean = damped.diagonal().mean()
    damped[np.diag_indices(len(damped))] += _DAMPING * mean if mean > 0 else 1
    return np.asarray(np.linalg.cholesky(np.linalg.inv(damped)).T, np.float32)


def _nearest(weight: Floats, inverse: Floats) -> Floats:
    whole = weight * inverse
    np.rint(whole, out=whole)
    return np.clip(whole, _LEAST, _MOST, out=whole)


def _inverse(steps: Floats) -> Floats:
    """Weights whose step is below float32's normal range count as zeros."""
    normal = np.abs(steps) > np.finfo(np.float32).tiny
    return np.divide(1, steps, out=np.zeros_like(steps), where=normal)
