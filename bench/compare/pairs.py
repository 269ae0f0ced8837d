"""A figure of both sides by round, its ratio, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Any

from perf.report import markdown_table, spread

COLUMNS = ("figure", "old", "new", "new : old", "rounds in which new is worse", "verdict")


class Verdict(str, Enum):
    BETTER = "better"
    SAME = "the same"
    WORSE = "WORSE"


@dataclass(frozen=True, slots=True)
class Pair:
    """One figure: a value of each side in each round."""

    what: str
    unit: str
    more_is_better: bool
    old: list[float]
    new: list[float]

    @property
    def ratios(self) -> list[float]:
        """New to old, round by round."""
        return [new / old for old, new in zip(self.old, self.new, strict=True)]

    @property
    def gains(self) -> list[float]:
        """As the ratios, but above 1 where the new side is the better one."""
        return self.ratios if self.more_is_better else [1 / ratio for ratio in self.ratios]

    def verdict(self, tolerance: float) -> Verdict:
        """By the median of the ratios; `tolerance` is a share of 1."""
        gain = median(self.gains)
        if gain < 1 - tolerance:
            return Verdict.WORSE
        return Verdict.BETTER if gain > 1 + tolerance else Verdict.SAME


def describe(pairs: Sequence[Pair], tolerance: float) -> str:
    """The verdict in a sentence, and the table, in Markdown."""
    worse = [f"{pair.what}, {pair.unit}" for pair in pairs if pair.verdict(tolerance) is Verdict.WORSE]
    head = f"No figure is more than {tolerance:.2%} worse in the median of its rounds."
    if worse:
        head = f"WORSE by more than {tolerance:.2%} in the median of the rounds: {'; '.join(worse)}."
    table = markdown_table(COLUMNS, rows_of(pairs, tolerance))
    return f"{head}\n\nMedian (least to most) of the rounds:\n\n{table}"


def rows_of(pairs: Sequence[Pair], tolerance: float) -> list[tuple[str, ...]]:
    """Of a table with `COLUMNS`."""
    return [
        (
            f"{pair.what}, {pair.unit}",
            spread(pair.old, ".4g"),
            spread(pair.new, ".4g"),
            spread(pair.ratios, ".3f"),
            f"{sum(gain < 1 for gain in pair.gains)} of {len(pair.gains)}",
            pair.verdict(tolerance).value,
        )
        for pair in pairs
    ]


def as_data(pairs: Sequence[Pair], tolerance: float) -> list[dict[str, Any]]:
    """For programs, every round's values in it."""
    return [
        {
            "figure": pair.what,
            "unit": pair.unit,
            "more_is_better": pair.more_is_better,
            "old": pair.old,
            "new": pair.new,
            "ratio": median(pair.ratios),
            "verdict": pair.verdict(tolerance).value,
        }
        for pair in pairs
    ]
