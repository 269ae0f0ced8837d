"""Curves over levels of load, as one picture: throughput, and percentiles of times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from perf.distribution import Distribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = {"p50": "-", "p95": "--", "p99": ":"}  # percentile -> how its line is drawn
COLOURS = ("#1f5fa8", "#c8501e", "#2f8f4e", "#7a3fa0", "#555555", "#b0892a")
WIDE = 8.0  # from this ratio of the largest to the least on, an axis is logarithmic


@dataclass(frozen=True, slots=True)
class Line:
    """One value for each level; None where there is none. Lines of one `group` share a colour."""

    name: str
    group: str
    values: Sequence[float | None]
    style: str = "-"  # "none" leaves the markers alone
    marker: str = "o"


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over the levels of the figure; with `levels`, over those instead."""

    title: str
    unit: str
    lines: list[Line] = field(default_factory=list)
    levels: Sequence[float] | None = None


def percentile_panel(title: str, curves: Mapping[str, Sequence[Distribution | None]]) -> Panel:
    """Milliseconds, of distributions in seconds: for each name one for each level."""
    panel = Panel(title, "milliseconds")
    for name, levels in curves.items():
        for percentile, style in SHOWN.items():
            values = [None if level is None else 1000 * getattr(level, percentile) for level in levels]
            label = f"{name} {percentile}" if len(curves) > 1 else percentile
            panel.lines.append(Line(label, name, values, style))
    return panel


def draw(title: str, axis: str, levels: Sequence[float], panels: Sequence[Panel]) -> Figure:
    """Raises ModuleNotFoundError where matplotlib is not installed."""
    from matplotlib.figure import Figure

    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.6 * columns, 3.7 * rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, axis, levels, panel)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    return figure


def _draw_panel(axes: Axes, axis: str, levels: Sequence[float], panel: Panel) -> None:
    at = levels if panel.levels is None else panel.levels
    groups = list(dict.fromkeys(line.group for line in panel.lines))
    for line in panel.lines:
        points = [(x, y) for x, y in zip(at, line.values, strict=True) if y is not None]
        colour = COLOURS[groups.index(line.group) % len(COLOURS)]
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            linestyle=line.style,
            color=colour,
            marker=line.marker,
            markersize=4,
            label=line.name,
        )
    if panel.levels is None:
        _set_levels(axes, levels)
    axes.set_xlabel(axis)
    _set_values(axes, panel)
    axes.set_title(panel.title, fontsize=11)
    axes.grid(visible=True, alpha=0.3)
    if len(panel.lines) > 1:
        axes.legend(fontsize=8, framealpha=0.8)


def _set_levels(axes: Axes, levels: Sequence[float]) -> None:
    """A tick at each."""
    if max(levels) / min(levels) >= WIDE:
        axes.set_xscale("log", base=2)
    axes.set_xticks(list(levels), [f"{level:g}" for level in levels])
    axes.minorticks_off()


def _set_values(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import LogLocator

    values = [value for line in panel.lines for value in line.values if value]
    if panel.unit == "milliseconds" and values and max(values) / min(values) >= WIDE:
        axes.set_yscale("log", subs=())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0, 1.1 * max(values, default=1))
    axes.set_ylabel(panel.unit)
