"""Two targets on the same rows: differences with intervals, and whether they may be chance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from train.evaluation.bootstrap import Figure, Indices, Resampling, Statistic
from train.evaluation.errors import EvaluationError
from train.evaluation.evaluate import Evaluation

MCNEMAR, BOOTSTRAP = "McNemar, exact", "paired bootstrap"


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of both, and that of the second less that of the first."""

    name: str
    first: float
    second: float
    difference: Figure
    p_value: float | None  # None: too few rows
    test: str


def compare(first: Evaluation, second: Evaluation, resampling: Resampling) -> list[Difference]:
    """All figures that both have intervals for. Raises EvaluationError unless they are of the same rows."""
    one, other = first.measured, second.measured
    if one.rows != other.rows:
        raise EvaluationError(
            f"{one.rows} rows count for {first.about.name}, but {other.rows} for {second.about.name}: "
            "both must have the same labels"
        )
    found = []
    for name, statistic in one.main.items():
        if name not in other.main:
            continue
        change = partial(_change, statistic, other.main[name])
        figure, by_chance = resampling.difference(change, one.rows)
        if name in one.correct and name in other.correct:
            p_value, test = mcnemar(one.correct[name], other.correct[name]), MCNEMAR
        else:
            p_value, test = by_chance, BOOTSTRAP
        values = (first.figures[name].value, second.figures[name].value)
        found.append(Difference(name, *values, figure, p_value, test))
    return found


def _change(first: Statistic, second: Statistic, rows: Indices) -> float:
    return second(rows) - first(rows)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float | None:
    """The exact test (McNemar 1947) over the rows that one of both has right and the other wrong."""
    discordant = int((first & ~second).sum()), int((second & ~first).sum())
    if not sum(discordant):
        return 1.0
    return float(stats.binomtest(discordant[0], sum(discordant), 0.5).pvalue)
