"""Operations on one row of logits `[vocab] float32`: the largest few, the filters, and the draw.

Definitions are those of transformers' TopKLogitsWarper, TopPLogitsWarper and MinPLogitsWarper (applied in
this order): top-k keeps every token that ties with the k-th; top-p keeps the fewest tokens, largest first,
whose probability reaches p; min-p keeps tokens of at least min_p times the largest probability.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_GROUP_SIZE = 64
_GROUPS_PER_WANTED = 4  # with fewer groups, their maxima exclude too few values
_SORTED_AT_ONCE = 1024  # sorting fewer is cheaper than a histogram
_BIN_SHIFT = 19  # of 23 bits of mantissa, four stay
_DRAW_BLOCK = 256


def log_softmax(logits: Floats) -> Floats:
    """Logarithm of the probabilities over the last axis, float32."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def kth_largest(values: Floats, k: int) -> float:
    """The k-th largest of `values`, 1 <= k <= len(values).

    A partition of a whole vocabulary costs about as much as a sort. The k-th largest of the maxima of
    disjoint groups is a lower bound of the answer, because k groups hold a value that large, and few values
    pass it.
    """
    size = min(_GROUP_SIZE, len(values) // (_GROUPS_PER_WANTED * k))
    if size > 1:
        groups = len(values) // size
        maxima = values[: groups * size].reshape(size, groups).max(axis=0)
        bound = np.partition(maxima, groups - k)[groups - k]
        values = values[values >= bound]
    return float(np.partition(values, len(values) - k)[len(values) - k])


def largest(values: Floats, k: int) -> Ids:
    """Indices of the k largest values, largest first, equal values by index."""
    if k == 0:
        return np.empty(0, dtype=np.int64)
    k = min(k, len(values))
    ids = np.flatnonzero(values >= kth_largest(values, k))
    return ids[np.argsort(-values[ids], kind="stable")][:k]


def filtered(scores: Floats, top_k: int, top_p: float, min_p: float) -> tuple[Ids | None, Floats]:
    """The tokens that may be drawn (None: all, in order) and their weights, which need not sum to 1.

    `scores` are logits over temperature, shifted so that the largest is 0.
    """
    ids: Ids | None = None
    if 0 < top_k < len(scores):
        ids = np.flatnonzero(scores >= kth_largest(scores, top_k))
        scores = scores[ids]
    weights: Floats = np.exp(scores)
    if top_p < 1.0:
        kept = nucleus(weights, top_p)
        ids, weights = kept if ids is None else ids[kept], weights[kept]
    if min_p > 0.0:
        kept = np.flatnonzero(weights >= min_p * weights.max())
        ids, weights = kept if ids is None else ids[kept], weights[kept]
    return ids, weights


def nucleus(weights: Floats, top_p: float) -> Ids:
    """Indices, ascending, of the fewest weights, largest first, that together reach `top_p` of the total.

    Of equal weights at the edge the lower indices are kept.
    """
    target = top_p * float(weights.sum())
    above, candidates = 0, weights
    if len(weights) > _SORTED_AT_ONCE:
        above, mass, candidates = _crossing_bin(weights, target)
        target -= mass
    ordered = np.sort(candidates)[::-1]
    reached = np.cumsum(ordered, dtype=np.float64)
    count = min(int(np.searchsorted(reached, target)) + 1, len(ordered))
    edge = ordered[count - 1]
    kept = np.flatnonzero(weights >= edge)
    surplus = len(kept) - above - count
    if surplus > 0:
        ties = np.flatnonzero(weights[kept] == edge)
        kept = np.delete(kept, ties[len(ties) - surplus :])
    return kept


def _crossing_bin(weights: Floats, target: float) -> tuple[int, float, Floats]:
    """The bin in which the sum of `weights`, largest first, passes `target`; number and sum of those above.

    The upper bits of a positive float (exponent, four bits of mantissa) are a bin number that grows with the
    value, so one histogram stands in for the sort of a whole vocabulary.
    """
    bins = (weights.view(np.int32) >> _BIN_SHIFT).astype(np.int64)
    masses = np.cumsum(np.bincount(bins, weights=weights)[::-1])
    index = min(int(np.searchsorted(masses, target)), len(masses) - 1)
    # Rounding may put the crossing into a bin below all weights; the last one with any will do.
    crossing = max(len(masses) - 1 - index, int(bins.min()))
    above = int(np.count_nonzero(bins > crossing))
    mass = float(masses[len(masses) - 2 - crossing]) if above else 0.0
    return above, mass, weights[bins == crossing]


def draw(weights: Floats, uniform: float) -> int:
    """The index at which the running sum of `weights` passes `uniform` (0 <= uniform < 1) of the total.

    Sums of blocks first, then the running sum of one block: a running sum over a vocabulary cannot be
    vectorised.
    """
    blocks = len(weights) // _DRAW_BLOCK
    if blocks < 2:
        return _passing(weights, uniform)[0]
    whole = blocks * _DRAW_BLOCK
    sums = weights[:whole].reshape(blocks, _DRAW_BLOCK).sum(axis=1)
    block, within = _passing(np.append(sums, weights[whole:].sum()), uniform)
    start = block * _DRAW_BLOCK
    end = len(weights) if block == blocks else start + _DRAW_BLOCK
    return start + _passing(weights[start:end], within)[0]


def _passing(weights: Floats, uniform: float) -> tuple[int, float]:
    """The index that the draw falls on, and how far into it, as a share of its weight."""
    running = np.cumsum(weights, dtype=np.float64)
    # Rounding may lift the product to the total itself, which no index passes.
    target = min(uniform * running[-1], float(np.nextafter(running[-1], 0.0)))
    index = int(np.searchsorted(running, target, side="right"))
    before = running[index - 1] if index else 0.0
    share = (target - before) / (running[index] - before)
    return index, float(min(share, np.nextafter(1.0, 0.0)))
