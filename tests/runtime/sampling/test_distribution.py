"""Filters and draws against plain sorting, and against transformers' logits processors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.generation import logits_process

from runtime.sampling import largest, log_softmax
from runtime.sampling.distribution import draw, filtered, kth_largest, nucleus

Floats = NDArray[np.float32]


@st.composite
def rows(draw_from: st.DrawFn, largest_size: int = 3000) -> Floats:
    """Random values of many shapes: smooth, with many ties, with masked entries."""
    seed = draw_from(st.integers(0, 2**32 - 1))
    size = draw_from(st.integers(1, 40) | st.integers(1, largest_size))
    random = np.random.default_rng(seed)
    values = random.normal(0, draw_from(st.sampled_from([0.0, 0.1, 1.0, 4.0, 30.0])), size)
    if draw_from(st.booleans()):
        values = np.round(values)
    if draw_from(st.booleans()):
        values[random.random(size) < 0.3] = -np.inf
        values[random.integers(size)] = 0.0
    return values.astype(np.float32)


@settings(deadline=None)
@given(values=rows(), share=st.floats(0, 1))
def test_kth_largest(values: Floats, share: float) -> None:
    k = 1 + int(share * (len(values) - 1))
    assert kth_largest(values, k) == np.sort(values)[::-1][k - 1]


@settings(deadline=None)
@given(values=rows(), k=st.integers(0, 50))
def test_largest(values: Floats, k: int) -> None:
    expected = sorted(range(len(values)), key=lambda index: (-values[index], index))[:k]
    assert largest(values, k).tolist() == expected


@settings(deadline=None)
@given(values=rows(), top_p=st.floats(0.0001, 0.9999))
def test_nucleus(values: Floats, top_p: float) -> None:
    """The fewest weights that reach the share, the largest first, equal ones by index."""
    weights = np.exp(values - values.max())
    kept = nucleus(weights, top_p)
    by_size = sorted(range(len(weights)), key=lambda index: (-weights[index], index))
    assert kept.tolist() == sorted(by_size[: len(kept)])
    total = weights.sum(dtype=np.float64)
    assert weights[kept].sum(dtype=np.float64) >= total * (top_p - 1e-5)
    assert weights[by_size[: len(kept) - 1]].sum(dtype=np.float64) <= total * (top_p + 1e-5)


@settings(deadline=None)
@given(values=rows(), uniform=st.floats(0, 1, exclude_max=True))
def test_draw(values: Floats, uniform: float) -> None:
    weights = np.exp(values - values.max())
    index = draw(weights, uniform)
    running = np.cumsum(weights, dtype=np.float64) / weights.sum(dtype=np.float64)
    assert weights[index] > 0
    assert running[index] >= uniform - 1e-5
    assert index == 0 or running[index - 1] <= uniform + 1e-5


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 513, 2000])
def test_every_index_can_be_drawn_and_no_other(size: int) -> None:
    weights = np.zeros(size, np.float32)
    for index in {0, size // 2, size - 1}:
        weights[:] = 0
        weights[index] = 1e-30
        assert {draw(weights, uniform) for uniform in (0.0, 0.3, float(np.nextafter(1, 0)))} == {index}


def test_equal_weights_are_drawn_in_order() -> None:
    weights = np.ones(1000, np.float32)
    assert [draw(weights, (index + 0.5) / 1000) for index in range(1000)] == list(range(1000))


@pytest.mark.parametrize("shape", [(7,), (3, 50)])
def test_log_softmax(shape: tuple[int, ...]) -> None:
    logits = np.random.default_rng(1).normal(0, 50, shape).astype(np.float32)
    expected = torch.log_softmax(torch.from_numpy(logits).double(), dim=-1).numpy()
    assert log_softmax(logits).dtype == np.float32
    np.testing.assert_allclose(log_softmax(logits), expected, atol=2e-5)


def transformers_probabilities(scores: Floats, top_k: int, top_p: float, min_p: float) -> Floats:
    """In the order of `GenerationMixin._get_logits_processor`."""
    processors = []
    if top_k:
        processors.append(logits_process.TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(logits_process.TopPLogitsWarper(top_p))
    if min_p > 0:
        processors.append(logits_process.MinPLogitsWarper(min_p))
    values = torch.from_numpy(scores)[None]
    for processor in processors:
        values = processor(torch.zeros((1, 1), dtype=torch.int64), values)
    probabilities: Floats = torch.softmax(values, dim=-1)[0].numpy()
    return probabilities


@pytest.mark.parametrize("size", [10, 1000, 5000])
@pytest.mark.parametrize("spread", [0.5, 3.0])
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [
        (0, 1.0, 0.0),
        (1, 1.0, 0.0),
        (5, 1.0, 0.0),
        (400, 1.0, 0.0),
        (10**6, 1.0, 0.0),
        (0, 0.01, 0.0),
        (0, 0.5, 0.0),
        (0, 0.95, 0.0),
        (0, 0.9999, 0.0),
        (0, 1.0, 0.05),
        (0, 1.0, 1.0),
        (40, 0.9, 0.0),
        (2000, 0.9, 0.0),
        (40, 0.9, 0.1),
        (0, 0.7, 0.02),
    ],
)
def test_filters_are_those_of_transformers(
    size: int, spread: float, top_k: int, top_p: float, min_p: float
) -> None:
    scores = np.random.default_rng(size).normal(0, spread, size).astype(np.float32)
    scores -= scores.max()
    ids, weights = filtered(scores, top_k, top_p, min_p)
    found = np.zeros(size, np.float32)
    found[slice(None) if ids is None else ids] = weights / weights.sum()
    expected = transformers_probabilities(scores, top_k, top_p, min_p)
    assert np.count_nonzero(found) == np.count_nonzero(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_top_k_keeps_what_ties_with_the_last() -> None:
    ids, _ = filtered(np.array([0, -1, -1, -2], np.float32), 2, 1.0, 0.0)
    assert ids is not None
    assert ids.tolist() == [0, 1, 2]
