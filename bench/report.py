"""The reports of the laboratory: as those of `perf`, but under bench/results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernels.library import described_level
from perf.report import command_line, write_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent / "results"


def write(name: str, text: str, data: Mapping[str, Any], draw: Callable[[], Figure] | None = None) -> None:
    """Print the report and write it to bench/results/NAME.md, NAME.json and, with `draw`, NAME.png."""
    write_report(name, command_line(), text, data, draw, RESULTS, {"kernels": described_level()})
