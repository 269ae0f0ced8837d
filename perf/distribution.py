"""Percentiles, least, most and mean of measured values.

A percentile is a value that was measured: the inverse of the distribution function, as NumPy's method
`inverted_cdf`. Values may have weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Distribution:
    """In the unit of the values. `count` is how many there were, or the sum of their weights."""

    count: float
    least: float
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float], weights: Sequence[float] | None = None) -> Distribution | None:
        """None where there is no value. A weight is the number of equal values that one stands for."""
        if not len(values):
            return None
        measured = np.asarray(values, np.float64)
        order = np.argsort(measured, kind="stable")
        measured = measured[order]
        weighed = np.ones(len(measured)) if weights is None else np.asarray(weights, np.float64)[order]
        below = np.cumsum(weighed)
        # A sum of floats may be wrong in its last bit: a percentile must not jump because of that.
        places = {
            name: np.searchsorted(below, share * below[-1] * (1 - 1e-12)) for name, share in SHARES.items()
        }
        percentiles = {name: float(measured[min(place, len(measured) - 1)]) for name, place in places.items()}
        return cls(
            count=float(below[-1]),
            least=float(measured[0]),
            mean=float(np.dot(measured, weighed) / below[-1]),
            most=float(measured[-1]),
            **percentiles,
        )
