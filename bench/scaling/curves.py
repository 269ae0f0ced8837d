"""Arrivals over time: requests per second at a second of the simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

Curve = Callable[[float], float]

RECORDED = Path(__file__).parent / "recorded.txt"
RECORDED_SECONDS = 10  # of each of its numbers
DAY = 86_400.0


def step(before: float, after: float, at: float) -> Curve:
    return lambda second: before if second < at else after


def ramp(before: float, after: float, begin: float, end: float) -> Curve:
    def rate(second: float) -> float:
        passed = min(1.0, max(0.0, (second - begin) / (end - begin)))
        return before + passed * (after - before)

    return rate


def daily(least: float, most: float) -> Curve:
    """A sine: the least at midnight, the most at noon."""
    middle, height = (least + most) / 2, (most - least) / 2
    return lambda second: middle - height * math.cos(2 * math.pi * second / DAY)


def spike(base: float, top: float, at: float, seconds: float) -> Curve:
    return lambda second: top if at <= second < at + seconds else base


def recorded(mean: float) -> Curve:
    """An hour as it was recorded, with its rates multiplied so that their mean is `mean`."""
    lines = [line for line in RECORDED.read_text().splitlines() if not line.startswith("#")]
    counts = [int(count) for line in lines for count in line.split()]
    factor = mean * len(counts) / sum(counts)
    return lambda second: factor * counts[int(second / RECORDED_SECONDS) % len(counts)]
