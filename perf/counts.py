"""Options that are lists of numbers."""

from __future__ import annotations

from typing import TypeVar

from perf.errors import PlanError

Number = TypeVar("Number", int, float)


def parse_counts(option: str, text: str) -> list[int]:
    """From `1,4,16`. Raises PlanError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise PlanError(f"{option}: {text!r} is not a list of whole numbers above 0, as 1,4,16")
    return distinct(option, [int(part) for part in parts])


def distinct(option: str, numbers: list[Number]) -> list[Number]:
    """The numbers as they are. Raises PlanError where one is given twice."""
    if len(set(numbers)) < len(numbers):
        raise PlanError(f"{option}: each only once, here they are {', '.join(map(str, numbers))}")
    return numbers
