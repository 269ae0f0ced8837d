"""The n-gram baseline is a probability distribution and learns what it saw."""

import math

import pytest

from train.ngram import KneserNey

VOCABULARY = 7
DOCUMENTS = [[1, 2, 3, 1, 2, 4, 1, 2, 3, 5], [2, 3, 1, 2, 3, 3, 4], [5, 1, 2, 3, 4, 4, 1]]


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("context", [[0], [1], [1, 2], [0, 1, 2], [6, 6], [4, 1, 2]])
def test_probabilities_sum_to_one(order: int, context: list[int]) -> None:
    model = KneserNey(DOCUMENTS, order, VOCABULARY, separator=0)
    total = sum(model.probability(token, context) for token in range(VOCABULARY))
    assert total == pytest.approx(1)
    assert all(model.probability(token, context) > 0 for token in range(VOCABULARY))


def test_seen_continuations_are_likelier() -> None:
    model = KneserNey(DOCUMENTS, 3, VOCABULARY, separator=0)
    assert model.probability(3, [1, 2]) > model.probability(5, [1, 2])
    assert model.probability(2, [1]) > 0.5


def test_likelihood_is_the_sum_over_tokens() -> None:
    model = KneserNey(DOCUMENTS, 3, VOCABULARY, separator=0)
    nats, count = model.negative_log_likelihood([[1, 2]])
    expected = -math.log(model.probability(1, [0])) - math.log(model.probability(2, [0, 1]))
    assert nats == pytest.approx(expected)
    assert count == 2


def test_order_one_is_refused() -> None:
    with pytest.raises(ValueError, match="order"):
        KneserNey(DOCUMENTS, 1, VOCABULARY, separator=0)
