"""Figures against values that are worked out by hand, and against the libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from seqeval.metrics import f1_score as seqeval_f1
from sklearn.metrics import accuracy_score, f1_score, log_loss

from export.evaluation.card import macro_f1
from runtime.contract import Kind
from runtime.heads import HeadAnswer
from runtime.messages import Slot
from train.data import LabelRow, Row, UtteranceRow
from train.evaluation.classes import (
    bins_of,
    calibration_error,
    measure_multi,
    measure_numbers,
    measure_single,
)
from train.evaluation.errors import EvaluationError
from train.evaluation.evaluate import Settings, check_labels, measure_heads
from train.evaluation.measured import Measured
from train.evaluation.slots import tags_of, with_slots
from train.evaluation.target import Description, Floats
from train.evaluation.texts import ScoredText, measure_texts
from train.evaluation.windows import Window, windows

LABELS = ("a", "b", "c")
SCORES = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.3, 0.4, 0.3]])
EXPECTED = [0, 1, 1, 2, 0]  # the second and the last are wrong
ALL = np.arange(5)


def all_of(measured: Measured) -> dict[str, float]:
    rows = np.arange(measured.rows)
    return {name: statistic(rows) for name, statistic in measured.main.items()} | dict(measured.others)


def test_one_label_of_several() -> None:
    found = measure_single(LABELS, EXPECTED, SCORES)
    values = all_of(found)
    assert values["accuracy"] == values["micro F1"] == pytest.approx(3 / 5)
    # a: 1 of 2 found, 1 of 2 right; b: 1 of 2 and 1 of 2; c: all.
    assert values["macro F1"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    likelihoods = [0.7, 0.3, 0.6, 0.6, 0.3]
    assert values["log loss"] == pytest.approx(-np.mean(np.log(likelihoods)))
    assert found.confusion is not None
    assert found.confusion.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert [each.support for each in found.classes] == [2, 2, 1]
    assert found.correct["accuracy"].tolist() == [True, False, True, True, False]
    # a against the rest: both a (0.7, 0.3) against 0.5, 0.1, 0.2: 5 of 6 pairs are in order.
    assert found.classes[0].roc_auc == pytest.approx(5 / 6)


def test_the_calibration_error_is_the_mean_gap_of_bins() -> None:
    confidence, right = np.array([0.95, 0.99, 0.5]), np.array([True, False, True])
    bins = bins_of(confidence, right)
    assert len(bins) == 15
    assert [each.count for each in bins if each.count] == [1, 2]
    assert calibration_error(confidence, right) == pytest.approx((0.5 + 2 * (0.97 - 0.5)) / 3)


def test_figures_of_resamples_are_those_of_scikit_learn() -> None:
    """With rows twice, labels that no row has, a likelihood of 0 and a confidence of 1."""
    generator = np.random.default_rng(0)
    scores = generator.dirichlet(np.full(4, 0.3), 12)
    scores[:2] = [[1, 0, 0, 0], [0, 1, 0, 0]]
    expected = generator.integers(0, 4, 12)
    expected[:2] = 0
    several = generator.random((12, 4)) < 0.5
    one = measure_single("abcd", expected.tolist(), scores).main
    many = measure_multi("abcd", several, scores).main
    found, given = scores.argmax(axis=1), scores >= 0.5
    numbers = list(range(4))
    for rows in (ALL, *generator.integers(0, 12, (5, 12)), np.array([0, 1, 0])):
        y, z = expected[rows], several[rows]
        score = {"zero_division": 0}
        assert one["accuracy"](rows) == pytest.approx(accuracy_score(y, found[rows]))
        macro = f1_score(y, found[rows], labels=numbers, average="macro", **score)
        assert one["macro F1"](rows) == pytest.approx(macro)
        assert one["log loss"](rows) == pytest.approx(log_loss(y, scores[rows], labels=numbers))
        assert one["ECE"](rows) == pytest.approx(gap(scores[rows].max(axis=1), found[rows] == y))
        assert many["accuracy of all labels"](rows) == pytest.approx(accuracy_score(z, given[rows]))
        for kind in ("micro", "macro"):
            assert many[f"{kind} F1"](rows) == pytest.approx(f1_score(z, given[rows], average=kind, **score))
        assert many["ECE"](rows) == pytest.approx(gap(scores[rows].ravel(), z.ravel()))


def gap(confidence: Floats, right: NDArray[np.bool_]) -> float:
    """The mean distance of accuracy from confidence in the bins of a reliability diagram."""
    bins = [each for each in bins_of(confidence, right) if each.count]
    distances = [abs((each.accuracy or 0) - (each.confidence or 0)) * each.count for each in bins]
    return sum(distances) / len(confidence)


def test_rows_out_of_scope_count_for_the_threshold_alone() -> None:
    scores = np.vstack([SCORES, [[0.4, 0.35, 0.25], [0.9, 0.05, 0.05]]])
    found = measure_single(LABELS, [*EXPECTED, -1, -1], scores, threshold=0.45)
    values = all_of(found)
    assert found.rows == 5
    assert values["accuracy"] == pytest.approx(3 / 5)
    # Under 0.45: the last one in scope, and the first one out of scope.
    assert values["out-of-scope recall"] == values["out-of-scope precision"] == pytest.approx(1 / 2)
    assert values["coverage"] == pytest.approx(5 / 7)
    assert values["in-scope accuracy with abstention"] == pytest.approx(3 / 5)
    assert values["accuracy where answered"] == pytest.approx(3 / 5)
    # The highest scores out of scope, 0.4 and 0.9, against 0.7, 0.5, 0.6, 0.6, 0.4 in scope; one is a tie.
    assert values["out-of-scope ROC AUC"] == pytest.approx(4.5 / 10)


def test_several_labels() -> None:
    expected = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]], bool)
    scores = np.array([[0.9, 0.4, 0.1], [0.2, 0.1, 0.3], [0.1, 0.8, 0.7]])
    values = all_of(measure_multi(LABELS, expected, scores))
    assert values["accuracy of all labels"] == pytest.approx(2 / 3)
    assert values["micro F1"] == pytest.approx(2 * 3 / (3 + 4))
    assert values["Hamming loss"] == pytest.approx(1 / 9)


def test_numbers() -> None:
    values = all_of(measure_numbers(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.5, 3.0])))
    assert values["mean absolute error"] == pytest.approx(0.5 / 3)
    assert values["root mean squared error"] == pytest.approx(math.sqrt(0.25 / 3))
    assert values["R2"] == pytest.approx(1 - 0.25 / 2)
    assert values["Spearman correlation"] == pytest.approx(1)


def test_slots_become_a_tag_for_each_word() -> None:
    words = ["play", "miles-davis", "in", "new", "york", "york"]
    slots = [
        Slot("artist", "miles", 5, 10, 1.0),
        Slot("place", "new york", 20, 28, 1.0),
        Slot("place", "york", 29, 33, 1.0),
    ]
    assert tags_of(words, slots) == ("O", "B-artist", "O", "B-place", "I-place", "B-place")
    assert tags_of(words, [Slot("artist", "davis", 11, 16, 1.0)]) == ("O",) * 6


GOLD = [["B-x", "I-x", "O", "B-y"], ["B-z", "O"], ["O"]]
GUESS = [["B-x", "O", "O", "B-y"], ["B-z", "B-z"], ["O"]]


def test_slot_figures_are_those_of_seqeval() -> None:
    intents = measure_single(("p", "q"), [0, 1, 1], np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]]))
    found = with_slots(intents, GOLD, GUESS)
    values = all_of(found)
    # Hits: y and the first z; 4 guessed, 3 expected.
    assert values["slot F1"] == pytest.approx(2 * 2 / (4 + 3)) == seqeval_f1(GOLD, GUESS)
    for rows in ([0], [1, 1], [0, 2]):
        part = [GOLD[row] for row in rows], [GUESS[row] for row in rows]
        assert found.main["slot F1"](np.array(rows)) == pytest.approx(seqeval_f1(*part))
    # Slots are right in the last one alone, whose intent is wrong.
    assert values["sentence accuracy"] == 0
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert {each.label: each.support for each in found.slots} == {"x": 1, "y": 1, "z": 1}


def test_an_inside_tag_without_a_beginning_begins_a_slot() -> None:
    found = with_slots(Measured(rows=1, main={}), [["O", "I-x", "I-x"]], [["O", "B-x", "I-x"]])
    assert all_of(found)["slot F1"] == 1
    assert "sentence accuracy" not in found.main


def test_utterances_without_intents_have_slots_alone() -> None:
    about = Description("tags", "artifact", Kind.NLU)
    rows: list[Row] = [UtteranceRow(1, ("in", "york"), ("O", "B-place"), "")]
    answers = [HeadAnswer(np.empty(0, np.float32), "", [Slot("place", "york", 3, 7, 1.0)])]
    assert all_of(measure_heads(about, rows, answers, Settings()))["slot F1"] == 1


def test_a_label_that_the_model_lacks_is_named_with_its_row() -> None:
    about = Description("m", "artifact", Kind.CLASSIFIER, labels=LABELS)
    rows = [LabelRow(1, "x", None, "a"), LabelRow(2, "y", None, "oos")]
    with pytest.raises(EvaluationError, match="row 2: 'oos'"):
        check_labels(about, rows)
    check_labels(about, rows, out_of_scope="oos")


@pytest.mark.parametrize("tokens", [1, 2, 8, 9, 30])
@pytest.mark.parametrize("length", [2, 8, 9])
def test_windows_score_each_token_once(tokens: int, length: int) -> None:
    cut = list(windows(tokens, length))
    assert [token for each in cut for token in range(each.scored, each.end)] == list(range(1, tokens))
    assert all(each.start < each.scored < each.end <= each.start + length for each in cut)
    assert all(each.scored - each.start >= length // 2 for each in cut[1:])


def test_windows_of_a_short_text_are_one() -> None:
    assert list(windows(5, 8)) == [Window(0, 1, 5)]
    assert list(windows(1, 8)) == []


def test_perplexity_for_each_unit() -> None:
    values = all_of(
        measure_texts([ScoredText(6 * math.log(2), 3, 2, 5), ScoredText(2 * math.log(2), 1, 0, 3)])
    )
    assert values["perplexity per token"] == pytest.approx(4)
    assert values["perplexity per word"] == pytest.approx(16)
    assert values["perplexity per byte"] == pytest.approx(2)
    assert values["bits per byte"] == pytest.approx(1)
    assert values["loss (nats per token)"] == pytest.approx(2 * math.log(2))


def test_quality_cards_have_the_same_f1() -> None:
    """The exporter has no scikit-learn: its macro F1 of a quality card is checked here."""
    generator = np.random.default_rng(0)
    expected, found = generator.integers(0, 5, (2, 200))
    assert macro_f1(expected, found) == pytest.approx(f1_score(expected, found, average="macro"))
