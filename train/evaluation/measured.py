"""What is measured of one target's answers, in a form that all kinds of models share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from train.evaluation.bootstrap import Statistic


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class, or one slot."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int  # rows, or spans, that have it
    roc_auc: float | None = None


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers whose confidence lies in one interval."""

    low: float
    high: float
    count: int
    confidence: float | None  # mean; None without an answer
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Curve:
    """An ROC curve."""

    label: str
    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    area: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Statistics take the numbers of rows. `main` get intervals; `others` are computed once."""

    rows: int
    main: Mapping[str, Statistic]
    others: Mapping[str, float] = field(default_factory=dict)
    correct: Mapping[str, NDArray[np.bool_]] = field(
        default_factory=dict
    )  # row by row, by the name in `main`
    classes: tuple[ClassFigures, ...] = ()
    slots: tuple[ClassFigures, ...] = ()
    confusion: NDArray[np.int64] | None = None  # [expected, found]
    confusion_labels: tuple[str, ...] = ()
    bins: tuple[Bin, ...] = ()
    curves: tuple[Curve, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)  # what figures are of: tokens, words, bytes
