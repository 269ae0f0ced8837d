"""What the commands share: their options, a target with a verdict, and a report that begins with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Annotated, Any

import typer

from bench.report import write

Model = Annotated[
    str | None,
    typer.Option("--model", help="A model's name or a deployment's id; needed where several fit."),
]
Pid = Annotated[
    int | None,
    typer.Option("--pid", help="Of the façade; without it, the process that listens on the port of the URL."),
]
Name = Annotated[str, typer.Option("--name", help="Of the report's files in bench/results.")]
Rounds = Annotated[int, typer.Option("--rounds", min=1)]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help="New tokens of a request.", min=1)]
PromptTokens = Annotated[int, typer.Option("--prompt-tokens", help="Tokens of a prompt.", min=1)]
Seconds = Annotated[float, typer.Option("--seconds", help="Of each measurement.")]
Warmup = Annotated[float, typer.Option("--warmup", help="Seconds before each measurement.")]


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


def publish(name: str, report: Report) -> None:
    """To the terminal, and to bench/results/NAME.md and NAME.json."""
    verdicts = "\n\n".join(target.words(value) for target, value in report.found)
    targets = [
        {**asdict(target), "found": value, "holds": target.holds(value)} for target, value in report.found
    ]
    text = f"{verdicts}\n\n{report.conditions}\n\n{report.tables}"
    write(name, text, {"targets": targets, **report.data})
