"""How far an export is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` stages are behind; of `stage`, which is under way, the `share` from 0 to 1 is."""

    stage: str
    done: int
    total: int
    share: float = 0.0


Report = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """The caller does not want to know."""


class Stages:
    """Walks through the stages in their order, and reports each step of a stage."""

    def __init__(self, names: Sequence[str], report: Report) -> None:
        self._names = names
        self._report = report
        self._current = -1
        self._share = 0.0

    def begin(self, name: str) -> None:
        """The next stage, which must be `name`: an order that differs from the list's is a defect."""
        self._current += 1
        if self._names[self._current] != name:
            raise RuntimeError(f"stage {name} begins, but {self._names[self._current]} was announced")
        self._share = 0.0
        self._report(Progress(name, self._current, len(self._names)))

    def step(self, share: float) -> None:
        """Told in hundredths, and at the end, however often it is called."""
        if share >= 1 or share - self._share >= 0.01:
            self._share = share
            self._report(Progress(self._names[self._current], self._current, len(self._names), share))

    def end(self) -> None:
        self._report(Progress("done", len(self._names), len(self._names)))
