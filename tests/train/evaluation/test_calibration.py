"""Temperature and threshold from rows whose true ones are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, softmax

from runtime.contract import Kind
from runtime.heads import HeadAnswer
from train.data import LabelRow, Row
from train.evaluation.calibration import Aim, find_calibration
from train.evaluation.errors import EvaluationError
from train.evaluation.target import Description

LABELS = ("a", "b", "c")
ABOUT = Description("m", "artifact", Kind.CLASSIFIER, labels=LABELS)


def sample(rows: int, temperature: float) -> tuple[list[Row], list[HeadAnswer]]:
    """Labels drawn by a model's probabilities, and what it says when its logits are too large by a factor."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(rows, 3)) * 2
    drawn = [generator.choice(3, p=softmax(row)) for row in logits]
    labelled: list[Row] = [LabelRow(place, "x", None, LABELS[label]) for place, label in enumerate(drawn)]
    return labelled, answers(softmax(logits * temperature, axis=1))


def answers(scores: NDArray[np.float64]) -> list[HeadAnswer]:
    return [HeadAnswer(row.astype(np.float32), "", None) for row in scores]


def labelled(names: list[str]) -> list[Row]:
    return [LabelRow(place, "x", None, name) for place, name in enumerate(names)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(temperature: float) -> None:
    found = find_calibration(ABOUT, *sample(3000, temperature), Aim())
    assert found.temperature == pytest.approx(temperature, rel=0.1)
    assert found.threshold is None
    assert found.rows == 3000
    assert found.figures["log loss"] <= found.figures["log loss before"]
    if temperature == 3.0:
        assert found.figures["ECE"] < found.figures["ECE before"] / 3


def test_probabilities_of_zero_do_no_harm() -> None:
    rows = labelled(["a", "b"] * 20)
    found = find_calibration(ABOUT, rows, answers(np.array([[1.0, 0.0, 0.0]] * 40)), Aim())
    assert 0.01 <= found.temperature <= 100


def test_of_several_labels_each_is_a_question() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3000, 3)) * 2
    given = generator.random((3000, 3)) < expit(logits)
    rows: list[Row] = [
        LabelRow(place, "x", None, tuple(np.array(LABELS)[row])) for place, row in enumerate(given)
    ]
    about = Description("m", "artifact", Kind.CLASSIFIER, "multi_label_classification", LABELS)
    found = find_calibration(about, rows, answers(expit(logits * 2)), Aim())
    assert found.temperature == pytest.approx(2, rel=0.1)
    with pytest.raises(EvaluationError, match="several labels"):
        find_calibration(about, rows, answers(expit(logits)), Aim(accuracy=0.9))


def test_a_threshold_for_an_accuracy_answers_as_much_as_it_may() -> None:
    scores = np.array([[0.9, 0.1, 0], [0.8, 0.2, 0], [0.7, 0.3, 0], [0.6, 0.4, 0], [0.5, 0.3, 0.2]])
    rows = labelled(["a", "a", "b", "a", "b"])
    # Right: 1, 1, 2/3, 3/4, 3/5.
    found = find_calibration(ABOUT, rows, answers(scores), Aim(accuracy=0.75))
    kept = scores ** (1 / found.temperature)
    highest = kept.max(axis=1) / kept.sum(axis=1)
    assert found.threshold is not None
    assert (highest >= found.threshold).tolist() == [True, True, True, True, False]
    assert found.figures["accuracy where answered"] == 0.75
    assert found.figures["coverage"] == pytest.approx(0.8)
    assert found.criterion == "accuracy where answered >= 0.75"
    with pytest.raises(EvaluationError, match="no threshold"):
        find_calibration(ABOUT, labelled(["c"] * 5), answers(scores), Aim(accuracy=0.9))


def test_a_threshold_for_rows_out_of_scope_has_the_best_f1() -> None:
    scores = np.array([[0.9, 0.1, 0], [0.1, 0.8, 0.1], [0.45, 0.3, 0.25], [0.4, 0.3, 0.3], [0.6, 0.2, 0.2]])
    rows = labelled(["a", "b", "oos", "oos", "a"])
    found = find_calibration(ABOUT, rows, answers(scores), Aim(out_of_scope="oos"))
    assert found.figures["out-of-scope F1"] == found.figures["out-of-scope recall"] == 1
    assert found.figures["in-scope accuracy with abstention"] == 1
    assert "oos" in found.criterion
    with pytest.raises(EvaluationError, match="rows without it"):
        find_calibration(ABOUT, rows[:2], answers(scores[:2]), Aim(out_of_scope="oos"))


@pytest.mark.parametrize(
    "about",
    [
        Description("m", "artifact", Kind.NLU),
        Description("m", "artifact", Kind.CLASSIFIER, "regression", ("value",)),
    ],
)
def test_what_has_no_probabilities_of_labels_is_refused(about: Description) -> None:
    with pytest.raises(EvaluationError, match="no probabilities"):
        find_calibration(about, labelled(["a"]), answers(np.ones((1, 1))), Aim())
