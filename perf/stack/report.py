"""What a measurement hands back, and how it is written: the target first, then what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from perf.report import write


class Bound(str, Enum):
    AT_LEAST = "at least"
    AT_MOST = "at most"


@dataclass(frozen=True, slots=True)
class Target:
    """A value of `form` in `unit`, and the limit that it is held to."""

    what: str
    bound: Bound
    limit: float
    form: str = ".2f"
    unit: str = ""

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.bound is Bound.AT_LEAST else value <= self.limit

    def words(self, value: float) -> str:
        verdict = "holds" if self.holds(value) else "MISSED"
        return (
            f"Target: {self.what} {self.bound.value} {self._shown(self.limit)}."
            f" Found: {self._shown(value)}. {verdict}."
        )

    def _shown(self, value: float) -> str:
        return f"{value:{self.form}}{self.unit}"


@dataclass(frozen=True, slots=True)
class Report:
    conditions: str  # what was measured, and how, in sentences
    found: Sequence[tuple[Target, float]]
    tables: str  # Markdown
    data: Mapping[str, Any]


def publish(name: str, command: str, report: Report) -> None:
    """To the terminal, and to perf/results/NAME.md and NAME.json."""
    verdicts = "\n\n".join(target.words(value) for target, value in report.found)
    targets = [
        {**asdict(target), "found": value, "holds": target.holds(value)} for target, value in report.found
    ]
    write(
        name,
        f"`{command}`\n\n{verdicts}\n\n{report.conditions}\n\n{report.tables}",
        {"command": command, "targets": targets, **report.data},
    )
