"""The report of a run on a GPU, from its lines alone: rungs, checks, ceilings, times and kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.gpu.runner import Line
from perf.report import markdown_table, spread

OURS, EAGER = "LMaaS", "transformers"
BANDWIDTH = "bytes_per_second"


class Lines:
    """What a run found, by step."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines

    def of(self, key: str, step: str = "") -> list[Line]:
        """Those with this key, of one step or of all."""
        return [line for line in self._lines if key in line and step in ("", line["step"])]

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second of the memory: the most of what was measured and what the driver says."""
        return max((line[BANDWIDTH] for line in self.of(BANDWIDTH)), default=None)

    def share(self, line: Line) -> float | None:
        """Percent of the bandwidth that a decode step uses, its host's part included."""
        if not self.bandwidth:
            return None
        return float(100 * line["bytes"] / self.bandwidth / (1e-6 * line["micros"]))

    def share_of_one(self, step: str) -> float | None:
        """At batch 1."""
        return next((self.share(line) for line in self.of("micros", step) if line.get("rows") == 1), None)

    def seconds_of_step(self, subject: str, batch: int) -> float | None:
        """Of the engine comparison, at the first length of a prompt."""
        found = (line for line in self.of("step_seconds", "engine") if line["subject"] == subject)
        return next(
            (
                median(line["step_seconds"])
                for line in found
                if line["batch"] == batch and line["step_seconds"]
            ),
            None,
        )

    def tokens_per_second(self, batch: int) -> float | None:
        seconds = self.seconds_of_step(OURS, batch)
        return None if seconds is None else batch / seconds

    def times_eager(self) -> float | None:
        ours, eager = (self.seconds_of_step(name, 1) for name in (OURS, EAGER))
        return None if ours is None or eager is None else eager / ours


@dataclass(frozen=True, slots=True)
class Rung:
    name: str
    least: float
    unit: str
    found: Callable[[Lines], float | None]

    def row(self, lines: Lines) -> list[str]:
        found = self.found(lines)
        if found is None:
            return [self.name, f"{self.least:,g} {self.unit}", "", "not measured"]
        reached = "reached" if found >= self.least else "not reached"
        return [self.name, f"{self.least:,g} {self.unit}", f"{found:,.3g} {self.unit}", reached]


def _gpt2(lines: Lines) -> float | None:
    return lines.share_of_one("steps")


RUNGS = (
    *(Rung("gpt2, batch 1", least, "% of the memory's bandwidth", _gpt2) for least in (12, 25, 45)),
    Rung("gpt2-xl, batch 1", 30, "% of the memory's bandwidth", lambda lines: lines.share_of_one("gpt2-xl")),
    Rung("gpt2, batch 64", 50_000, "tokens/s", lambda lines: lines.tokens_per_second(64)),
    Rung("gpt2, batch 1", 5, "x transformers eager", Lines.times_eager),
)


def report_of(found: Sequence[Line]) -> str:
    """Markdown."""
    lines = Lines(found)
    parts = [
        _table(("step", "", "seconds", "why"), _endings(lines)),
        _table(("rung", "at least", "found", ""), [rung.row(lines) for rung in RUNGS]),
        _table(("step", "against fp32 on the CPU", "", "found"), _checks(lines)),
        _facts(lines),
        _table(("ceiling", ""), _ceilings(lines)),
        _table(STEP_COLUMNS, _steps(lines)),
        _table(("tokens of a prompt", "us of the first", "us"), _prompts(lines)),
        _table(
            ("batch x prompt", "", "tokens/s", "tokens/s after the first", "ms of a step"), _engine(lines)
        ),
        *_profiles(lines),
    ]
    return "\n".join(part for part in parts if part)


STEP_COLUMNS = (
    "step of",
    "rows",
    "us",
    "us of its CUDA graph",
    "us with a draw",
    "tokens/s",
    "% of the bandwidth",
)


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Nothing where there is no row."""
    return markdown_table(columns, rows) if rows else ""


def _endings(lines: Lines) -> list[list[object]]:
    return [
        [line["step"], line["ended"], line.get("seconds", ""), line.get("reason", "")]
        for line in lines.of("ended")
    ]


def _checks(lines: Lines) -> list[list[str]]:
    return [
        [line["step"], line["name"], "held" if line["held"] else "NOT HELD", line["found"]]
        for line in lines.of("held")
    ]


def _facts(lines: Lines) -> str:
    """A list of what the step said, without the frame of a line."""
    facts = [
        f"- {key}: {value}"
        for line in lines.of("at", "facts")
        if not {"ended", "ceiling"} & line.keys()
        for key, value in line.items()
        if key not in ("at", "step")
    ]
    return "\n".join([*facts, ""]) if facts else ""


def _ceilings(lines: Lines) -> list[list[str]]:
    return [
        [
            line["ceiling"],
            f"{line['micros']} us" if "micros" in line else f"{line[BANDWIDTH] / 1e9:,.0f} GB/s",
        ]
        for line in lines.of("ceiling")
    ]


def _steps(lines: Lines) -> list[list[Any]]:
    rows = []
    for line in lines.of("micros"):
        if "rows" not in line:
            continue
        share = lines.share(line) if "bytes" in line else None
        rows.append(
            [
                f"{line['step']}{', compiled' if line.get('compiled') else ''}",
                line["rows"],
                line["micros"],
                line.get("micros_of_replay", ""),
                line.get("micros_with_draw", ""),
                f"{1e6 * line['rows'] / line['micros']:,.0f}",
                "" if share is None else f"{share:.1f}",
            ]
        )
    return rows


def _prompts(lines: Lines) -> list[list[Any]]:
    return [[line["prompt"], line["micros_of_first"], line["micros"]] for line in lines.of("micros_of_first")]


def _engine(lines: Lines) -> list[list[str]]:
    rows = []
    for line in lines.of("step_seconds"):
        case, seconds = f"{line['batch']} x {line['prompt']}", line["step_seconds"]
        if line["failed"] or not seconds:
            rows.append([case, line["subject"], line["failed"], "", ""])
            continue
        after = [line["batch"] / one for one in seconds]
        milliseconds = [1e3 * one for one in seconds]
        columns = (
            spread(line["tokens_per_second"], ",.0f"),
            spread(after, ",.0f"),
            spread(milliseconds, ".2f"),
        )
        rows.append([case, line["subject"], *columns])
    return rows


def _profiles(lines: Lines) -> list[str]:
    columns = ("kernel", "in a step", "us")
    return [
        f"A step of {line['rows']} rows: {line['nodes']:g} nodes, {line['micros_of_kernels']} us in them.\n\n"
        f"{markdown_table(columns, line['kernels'])}"
        for line in lines.of("kernels")
    ]
