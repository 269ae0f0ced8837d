"""Intervals of figures by the bootstrap over rows (Efron 1979), as SciPy draws it, with a fixed seed.

A statistic is a function of the numbers of rows. The percentile interval of its values over resamples of
the rows is given. A difference of two targets is taken on the same resamples, so that rows which are hard for
both do not widen it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
Statistic = Callable[[Indices], float]

LEVEL = 0.95
FEWEST_ROWS = 2
BATCH = 100  # resamples whose rows are drawn at once


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with its 95 % interval; None where it has no interval."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals are made; with 0 resamples there are none."""

    resamples: int = 1000
    seed: int = 0

    def figure(self, statistic: Statistic, rows: int) -> Figure:
        """Of rows 0 to `rows` - 1."""
        return self._figure(statistic, rows, self._values(statistic, rows))

    def difference(self, statistic: Statistic, rows: int) -> tuple[Figure, float | None]:
        """Of two targets, with its p-value: how likely chance alone gives a difference this far from 0.

        That is twice the smaller share of the resamples on one side of 0.
        """
        values = self._values(statistic, rows)
        figure = self._figure(statistic, rows, values)
        if values is None:
            return figure, None
        # With the sample itself, as in a permutation test: no p-value is 0.
        below, above = (1 + int((side >= 0).sum()) for side in (-values, values))
        return figure, min(1.0, 2 * min(below, above) / (len(values) + 1))

    @staticmethod
    def _figure(statistic: Statistic, rows: int, values: Floats | None) -> Figure:
        value = float(statistic(np.arange(rows)))
        if values is None or not np.isfinite(values).all():
            return Figure(value)
        low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        return Figure(value, float(low), float(high))

    def _values(self, statistic: Statistic, rows: int) -> Floats | None:
        """Of the resamples; None where there are none."""
        if rows < FEWEST_ROWS or not self.resamples:
            return None
        with warnings.catch_warnings():
            # Some resamples may lack a figure: the values say so themselves.
            warnings.simplefilter("ignore")
            drawn = stats.bootstrap(
                (np.arange(rows),),
                statistic,
                n_resamples=self.resamples,
                batch=BATCH,
                vectorized=False,
                method="percentile",
                confidence_level=LEVEL,
                rng=np.random.default_rng(self.seed),
            )
        values: Floats = drawn.bootstrap_distribution
        return values
