"""Span F1 and perplexity against numbers worked out by hand."""

import math

import pytest

from train.evaluate import accuracy, perplexity, repeats, repetition, span_f1, spans


def test_spans_follow_conlleval() -> None:
    assert spans(["O", "B-a", "I-a", "B-a", "O", "I-b", "I-b", "I-a"]) == {
        ("a", 1, 3),
        ("a", 3, 4),
        ("b", 5, 7),
        ("a", 7, 8),
    }


def test_span_f1_counts_exact_spans_only() -> None:
    gold = [["B-x", "I-x", "O", "B-y"], ["B-z", "O"]]
    guess = [["B-x", "O", "O", "B-y"], ["B-z", "B-z"]]
    # Hits: y and the first z; 4 guessed, 3 expected.
    assert span_f1(guess, gold) == pytest.approx(2 * 2 / (4 + 3))


def test_span_f1_without_any_span_is_perfect() -> None:
    assert span_f1([["O"]], [["O"]]) == 1.0


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="tags predicted"):
        span_f1([["O", "O"]], [["O"]])
    with pytest.raises(ValueError, match="predictions"):
        accuracy([1], [1, 2])


def test_perplexity_per_unit() -> None:
    measured = perplexity(8 * math.log(2), 4, ["ab cd"])
    assert measured.per_token == pytest.approx(4)
    assert measured.per_word == pytest.approx(16)
    assert measured.bits_per_byte == pytest.approx(8 / 5)


def test_a_text_repeats_when_four_words_in_a_row_come_again() -> None:
    assert repeats("She saw a big, a big, a big, a big, a big car.")
    assert not repeats("She saw a big dog and a big cat. She saw a red car.")
    assert repeats("one two three four, one two three four,")
    assert not repeats("too short")


def test_repetition_is_the_share_of_sequences_that_came_before() -> None:
    # Five sequences, of which the last one came before; and one text with two different ones.
    assert repetition(["a b c d a b c d"]) == pytest.approx(1 / 5)
    assert repetition(["a b c d a b c d", "e f g h i"]) == pytest.approx(1 / 7)
    assert repetition(["too short"]) == 0.0
