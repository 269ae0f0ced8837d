"""The progress of an export: its stages, and the share of each that is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` stages are complete; of the current `stage`, the `share` (0 to 1) is done."""

    stage: str
    done: int
    total: int
    share: float = 0.0


Report = Callable[[Progress], None]
OnProgress = Callable[[float], None]  # called with the share of a stage that is done, 0 to 1


def ignore(progress: Progress) -> None:
    """A Report for callers that show no progress."""


class Stages:
    """Goes through the stages in their order, and reports the progress of each."""

    def __init__(self, names: Sequence[str], report: Report) -> None:
        self._names = names
        self._report = report
        self._current = -1
        self._share = 0.0

    def begin(self, name: str) -> None:
        """Start the next stage. It must be `name`: another order than that of the list is a defect."""
        self._current += 1
        if self._names[self._current] != name:
            raise RuntimeError(f"stage {name} begins, but {self._names[self._current]} was announced")
        self._share = 0.0
        self._report(Progress(name, self._current, len(self._names)))

    def step(self, share: float) -> None:
        """Report the share of the stage that is done, if it grew by a hundredth or is 1."""
        if share >= 1 or share - self._share >= 0.01:
            self._share = share
            self._report(Progress(self._names[self._current], self._current, len(self._names), share))

    def end(self) -> None:
        self._report(Progress("done", len(self._names), len(self._names)))
