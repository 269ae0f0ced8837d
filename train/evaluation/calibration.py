"""A temperature and a threshold from labelled rows.

The temperature is the one with the least negative log-likelihood (Guo et al., On Calibration of Modern Neural
Networks, 2017). A threshold is chosen for a stated aim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from sklearn import metrics

from runtime.calibration import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE, Calibration
from runtime.contract import Kind
from runtime.heads import HeadAnswer
from train.data import LabelRow, Row
from train.evaluation.classes import calibration_error, threshold_figures
from train.evaluation.errors import EvaluationError
from train.evaluation.evaluate import expected_places, expected_sets
from train.evaluation.target import Description, Floats

SMALLEST = 1e-38  # a probability of 0 in float32 has no logarithm
DIGITS = 6  # of what is stored


@dataclass(frozen=True, slots=True)
class Aim:
    """How the threshold is chosen; with neither there is none."""

    accuracy: float | None = None  # of the answers that are given
    out_of_scope: str | None = None  # the label of rows without one of the model's: best F1 of finding them


def find_calibration(
    about: Description, rows: Sequence[Row], answers: Sequence[HeadAnswer], aim: Aim
) -> Calibration:
    """`answers` have the scores that the model gives without a calibration. Raises EvaluationError."""
    scores = np.stack([answer.scores for answer in answers]).astype(np.float64)
    if about.kind is Kind.LM or not about.labels or about.problem_type == "regression":
        raise EvaluationError(f"{about.name}: has no probabilities of labels that could be calibrated")
    if about.problem_type == "multi_label_classification":
        if aim.accuracy is not None or aim.out_of_scope is not None:
            raise EvaluationError(f"{about.name}: gives several labels, and has no threshold for all of them")
        given = expected_sets(about.labels, [row for row in rows if isinstance(row, LabelRow)])
        return _several(given, scores)
    truth = np.asarray(expected_places(about.labels, rows), np.int64)
    return _one(truth, scores, aim)


def _one(truth: NDArray[np.int64], scores: Floats, aim: Aim) -> Calibration:
    inside = truth >= 0
    logits, numbers = np.log(np.maximum(scores, SMALLEST)), np.arange(scores.shape[1])

    def loss(temperature: float) -> float:
        given = special.softmax(logits[inside] / temperature, axis=1)
        return float(metrics.log_loss(truth[inside], given, labels=numbers))

    temperature = _least(loss)
    found = special.softmax(logits / temperature, axis=1)
    threshold, criterion = _threshold(truth, found, aim)
    figures = {"log loss before": loss(1.0), "log loss": loss(temperature)}
    for name, given in (("ECE before", scores), ("ECE", found)):
        right = given[inside].argmax(axis=1) == truth[inside]
        figures[name] = calibration_error(given[inside].max(axis=1), right)
    figures |= threshold_figures(truth, found, threshold)
    return _calibration(temperature, threshold, criterion, len(truth), figures)


def _several(expected: NDArray[np.bool_], scores: Floats) -> Calibration:
    logits = special.logit(np.clip(scores, SMALLEST, 1 - 1e-7))

    def loss(temperature: float) -> float:
        given = special.expit(logits / temperature).ravel()
        return float(metrics.log_loss(expected.ravel(), given, labels=[False, True]))

    temperature = _least(loss)
    figures = {"log loss before": loss(1.0), "log loss": loss(temperature)}
    for name, given in (("ECE before", scores), ("ECE", special.expit(logits / temperature))):
        figures[name] = calibration_error(given, expected)
    return _calibration(temperature, None, "", len(expected), figures)


def _least(loss: Callable[[float], float]) -> float:
    bounds = np.log((LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE))
    found = optimize.minimize_scalar(
        lambda value: loss(float(np.exp(value))), bounds=tuple(bounds), method="bounded"
    )
    return float(np.exp(found.x))


def _threshold(truth: NDArray[np.int64], scores: Floats, aim: Aim) -> tuple[float | None, str]:
    """The threshold and how it was chosen. Raises EvaluationError where none reaches the aim."""
    highest, outside = scores.max(axis=1), truth < 0
    right = scores.argmax(axis=1) == truth
    if aim.accuracy is not None:
        order = np.argsort(-highest, kind="stable")
        shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
        # Equal scores are answered together.
        last = np.append(highest[order][:-1] != highest[order][1:], True)
        enough = np.flatnonzero((shares >= aim.accuracy) & last)
        if not len(enough):
            raise EvaluationError(f"no threshold gives an accuracy of {aim.accuracy:g} on these rows")
        return _below(highest, highest[order][enough[-1]]), f"accuracy where answered >= {aim.accuracy:g}"
    if aim.out_of_scope is None:
        return None, ""
    if not outside.any() or outside.all():
        raise EvaluationError(
            f"{aim.out_of_scope!r}: rows with this label and rows without it are needed to choose a threshold"
        )
    # A row is found to be out of scope where its highest score is less than the threshold.
    precision, recall, cuts = metrics.precision_recall_curve(outside, -highest)
    sums = precision[:-1] + recall[:-1]
    f1 = 2 * precision[:-1] * recall[:-1] / np.where(sums > 0, sums, 1)
    best = -cuts[int(f1.argmax())]
    return _above(highest, best), f"best F1 of finding rows of {aim.out_of_scope}"


def _below(values: Floats, value: float) -> float:
    """Half-way to the next lower one of `values`: a threshold must not depend on the last bit of a score."""
    lower = values[values < value]
    return float((value + lower.max()) / 2) if len(lower) else 0.0


def _above(values: Floats, value: float) -> float:
    higher = values[values > value]
    return float((value + higher.min()) / 2) if len(higher) else 1.0


def _calibration(
    temperature: float, threshold: float | None, criterion: str, rows: int, figures: dict[str, float]
) -> Calibration:
    return Calibration(
        round(temperature, DIGITS),
        None if threshold is None else round(threshold, DIGITS),
        criterion,
        rows,
        {name: round(value, DIGITS) for name, value in figures.items() if np.isfinite(value)},
    )
