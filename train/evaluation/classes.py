"""Figures of classifiers: one class, several classes, or a number. The metrics are those of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics

from train.evaluation.bootstrap import Statistic
from train.evaluation.measured import Bin, ClassFigures, Curve, Measured

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NUM_BINS = 15  # of the calibration error, of equal width, as Guo et al. 2017
EDGES = np.linspace(0, 1, NUM_BINS + 1)
LEAST = np.finfo(np.float64).eps  # a likelihood in the log loss, as scikit-learn has it
DECISION = 0.5  # a label of several is given from this probability on


def measure_single(
    labels: Sequence[str], expected: Sequence[int], scores: Floats, threshold: float | None = None
) -> Measured:
    """`scores` [rows, labels] are probabilities; `expected` are indices of labels, -1: none of them.

    Rows that have none of the labels are out of scope: they count for the threshold alone.
    """
    truth = np.asarray(expected, np.int64)
    inside = np.flatnonzero(truth >= 0)
    known, given = truth[inside], scores[inside]
    found = given.argmax(axis=1)
    confidence = given.max(axis=1)
    right = found == known
    numbers = np.arange(len(labels))
    curves = roc_curves(labels, known[:, None] == numbers, given)
    losses = -np.log(np.maximum(given[np.arange(len(known)), known], LEAST))
    main: dict[str, Statistic] = {
        "accuracy": lambda rows: float(right[rows].mean()),
        "macro F1": lambda rows: macro_f1(known[rows], found[rows], len(labels)),
        "log loss": lambda rows: float(losses[rows].mean()),
        "ECE": lambda rows: calibration_error(confidence[rows], right[rows]),
    }
    others = {
        f"{kind} {name}": value
        for kind in ("macro", "micro")
        for name, value in averages(known, found, numbers, kind).items()
    }
    others |= _mean_area(curves)
    others |= threshold_figures(truth, scores, threshold)
    return Measured(
        rows=len(inside),
        main=main,
        others=others,
        correct={"accuracy": right},
        classes=per_class(labels, known, found, numbers, curves),
        confusion=metrics.confusion_matrix(known, found, labels=numbers),
        confusion_labels=tuple(labels),
        bins=bins_of(confidence, right),
        curves=curves,
        counts={"rows in scope": len(inside), "rows out of scope": len(truth) - len(inside)},
    )


def measure_multi(labels: Sequence[str], expected: NDArray[np.bool_], scores: Floats) -> Measured:
    """`scores` [rows, labels] are probabilities of each label by itself; `expected` has the same shape."""
    found = scores >= DECISION
    numbers = np.arange(len(labels))
    curves = roc_curves(labels, expected, scores)
    right = (found == expected).all(axis=1)
    hits, sizes = expected & found, expected.astype(np.int64) + found
    main: dict[str, Statistic] = {
        "accuracy of all labels": lambda rows: float(right[rows].mean()),
        "micro F1": lambda rows: f1(hits[rows].sum(), sizes[rows].sum()),
        "macro F1": lambda rows: f1(hits[rows].sum(axis=0), sizes[rows].sum(axis=0)),
        "ECE": lambda rows: calibration_error(scores[rows], expected[rows]),
    }
    others = {
        f"{kind} {name}": value
        for kind in ("macro", "micro")
        for name, value in averages(expected, found, None, kind).items()
    }
    others |= {"Hamming loss": float(metrics.hamming_loss(expected, found))} | _mean_area(curves)
    return Measured(
        rows=len(expected),
        main=main,
        others=others,
        correct={"accuracy of all labels": right},
        classes=per_class(labels, expected, found, numbers, curves),
        bins=bins_of(scores.ravel(), expected.ravel()),
        curves=curves,
    )


def measure_numbers(expected: Floats, found: Floats) -> Measured:
    """Regression: `[rows]` each."""
    main: dict[str, Statistic] = {
        "mean absolute error": lambda rows: float(metrics.mean_absolute_error(expected[rows], found[rows])),
        "root mean squared error": lambda rows: float(
            metrics.root_mean_squared_error(expected[rows], found[rows])
        ),
        "R2": lambda rows: float(metrics.r2_score(expected[rows], found[rows])),
    }
    varied = len(set(expected)) > 1 and len(set(found)) > 1
    others = {
        "Pearson correlation": float(stats.pearsonr(expected, found).statistic),
        "Spearman correlation": float(stats.spearmanr(expected, found).statistic),
    }
    return Measured(rows=len(expected), main=main, others=others if varied else {})


# Figures with intervals are computed thousands of times, of other rows each time. scikit-learn's functions
# check their input each time, which takes a hundred times as long as the figure.


def f1(hits: NDArray[np.int64], sizes: NDArray[np.int64]) -> float:
    """The mean F1 of classes; that of a class without rows is 0.

    `hits` are the rows that have a class and are given it; `sizes` are those that have it and those that are
    given it.
    """
    return float(np.divide(2 * hits, sizes, out=np.zeros(np.shape(sizes)), where=sizes > 0).mean())


def macro_f1(expected: Integers, found: Integers, num_labels: int) -> float:
    """`expected` and `found` [rows] are indices of labels."""
    hits, have, given = (
        np.bincount(column, minlength=num_labels) for column in (expected[expected == found], expected, found)
    )
    return f1(hits, have + given)


def calibration_error(confidence: Floats, right: NDArray[np.bool_]) -> float:
    """Expected calibration error (Guo et al. 2017): the mean distance of accuracy from confidence in bins.

    Both have the same shape.
    """
    bins = np.searchsorted(EDGES[1:-1], confidence.ravel(), side="right")
    gaps = np.bincount(bins, right.ravel() - confidence.ravel())
    return float(np.abs(gaps).sum() / max(confidence.size, 1))


def averages(
    expected: NDArray[np.generic], found: NDArray[np.generic], labels: Integers | None, kind: str
) -> dict[str, float]:
    values = metrics.precision_recall_fscore_support(
        expected, found, labels=labels, average=kind, zero_division=0
    )
    return dict(zip(("precision", "recall", "F1"), map(float, values[:3]), strict=True))


def per_class(
    names: Sequence[str],
    expected: NDArray[np.generic],
    found: NDArray[np.generic],
    numbers: Integers,
    curves: Sequence[Curve],
) -> tuple[ClassFigures, ...]:
    areas = {curve.label: curve.area for curve in curves}
    columns = metrics.precision_recall_fscore_support(expected, found, labels=numbers, zero_division=0)
    return tuple(
        ClassFigures(name, float(precision), float(recall), float(score), int(support), areas.get(name))
        for name, precision, recall, score, support in zip(names, *columns, strict=True)
    )


def roc_curves(labels: Sequence[str], expected: NDArray[np.bool_], scores: Floats) -> tuple[Curve, ...]:
    """One against the rest, of each label that some rows have and others have not."""
    found = []
    for number, label in enumerate(labels):
        column = expected[:, number]
        if column.any() and not column.all():
            false_rate, true_rate, _ = metrics.roc_curve(column, scores[:, number])
            area = float(metrics.roc_auc_score(column, scores[:, number]))
            found.append(Curve(label, false_rate, true_rate, area))
    return tuple(found)


def _mean_area(curves: Sequence[Curve]) -> dict[str, float]:
    return {"ROC AUC (one-vs-rest)": float(np.mean([curve.area for curve in curves]))} if curves else {}


def bins_of(confidence: Floats, right: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """NUM_BINS bins of equal width from 0 to 1."""
    counts = np.histogram(confidence, EDGES)[0]
    sums = np.histogram(confidence, EDGES, weights=confidence)[0]
    hits = np.histogram(confidence, EDGES, weights=right.astype(np.float64))[0]
    return tuple(
        Bin(low, high, int(count), total / count if count else None, hit / count if count else None)
        for low, high, count, total, hit in zip(EDGES[:-1], EDGES[1:], counts, sums, hits, strict=True)
    )


def threshold_figures(truth: Integers, scores: Floats, threshold: float | None) -> dict[str, float]:
    """How well the highest score separates rows in scope from others, and what a threshold does.

    An abstention is right where a row is out of scope.
    """
    highest, outside = scores.max(axis=1), truth < 0
    found: dict[str, float] = {}
    if outside.any() and not outside.all():
        found["out-of-scope ROC AUC"] = float(metrics.roc_auc_score(outside, -highest))
    if threshold is None:
        return found
    abstained = highest < threshold
    right = scores.argmax(axis=1) == truth
    found |= {
        "threshold": threshold,
        "coverage": float(1 - abstained.mean()),
        "in-scope accuracy with abstention": float((right & ~abstained)[~outside].mean()),
        "accuracy where answered": float(right[~abstained].mean()) if (~abstained).any() else float("nan"),
    }
    if outside.any():
        found |= {
            "out-of-scope precision": float(metrics.precision_score(outside, abstained, zero_division=0)),
            "out-of-scope recall": float(metrics.recall_score(outside, abstained)),
            "out-of-scope F1": float(metrics.f1_score(outside, abstained, zero_division=0)),
        }
    return found
