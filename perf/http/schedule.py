"""How long a load runs, and when an open loop's requests leave: all times are fixed in advance."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Arrivals(str, Enum):
    """How the times between arrivals are drawn."""

    POISSON = "poisson"  # exponential gaps: callers who know nothing of each other
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Extent:
    """Seconds of warm-up, then the window: so many `requests`, or so many `seconds` where that is None."""

    warmup: float
    seconds: float
    requests: int | None = None

    @property
    def stagger(self) -> float:
        """Seconds over which the callers of a closed loop begin."""
        return self.warmup / 2


def intended_times(rate: float, arrivals: Arrivals, seed: str, extent: Extent) -> list[float]:
    """Seconds after the start of every request at `rate` per second, warm-up included, in order."""
    times: list[float] = []
    measured = 0
    for time in _endless(rate, arrivals, random.Random(seed)):
        if time >= extent.warmup:
            if extent.requests is None and time >= extent.warmup + extent.seconds:
                break
            if measured == extent.requests:
                break
            measured += 1
        times.append(time)
    return times


def _endless(rate: float, arrivals: Arrivals, draw: random.Random) -> Iterator[float]:
    time, number = 0.0, 0
    while True:
        # Constant times are not summed up: the thousandth must not have drifted.
        time = time + draw.expovariate(rate) if arrivals is Arrivals.POISSON else number / rate
        number += 1
        yield time
