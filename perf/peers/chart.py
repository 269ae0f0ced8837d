"""The report as a picture: tokens/s as bars, grouped by batch, one panel for each prompt length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from perf.peers.rounds import Cell, Measured, Plan

GROUP = 0.86  # of the distance between two groups, the bars of one
OURS = ("#b3202c", "#e0575b", "#f0908f", "#f7c3c1")
OTHERS = ("#8d99ae", "#5c677d", "#6a4c93", "#2a6f97", "#00808a", "#c98b2b", "#e3b45f")


def draw(measured: Sequence[Measured], plan: Plan, path: Path) -> None:
    """Write the picture as PNG; whiskers go from the least to the largest."""
    height = 3.9 * len(plan.prompt_lengths)
    figure = Figure(figsize=(max(8.0, 2.6 * len(plan.batches)), height), dpi=150, layout="constrained")
    panels = figure.subplots(len(plan.prompt_lengths), 1, squeeze=False)[:, 0]
    colours = _colours(measured)
    for length, axes in zip(plan.prompt_lengths, panels, strict=True):
        _panel(axes, measured, plan, length, colours)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=4, loc="outside upper center", frameon=False, fontsize=9)
    figure.savefig(path, format="png")


def _colours(measured: Sequence[Measured]) -> list[str]:
    mine, others = iter(OURS), iter(OTHERS)
    return [next(mine if found.peer.is_ours else others) for found in measured]


def _panel(axes: Any, measured: Sequence[Measured], plan: Plan, length: int, colours: Sequence[str]) -> None:
    width = GROUP / len(measured)
    for index, (found, colour) in enumerate(zip(measured, colours, strict=True)):
        rounds = [found.figures[Cell(length, batch)].tokens_per_second for batch in plan.batches]
        middles = [median(values) for values in rounds]
        whiskers = [
            [middle - min(values) for middle, values in zip(middles, rounds, strict=True)],
            [max(values) - middle for middle, values in zip(middles, rounds, strict=True)],
        ]
        places = [group + (index - (len(measured) - 1) / 2) * width for group in range(len(plan.batches))]
        bars = axes.bar(
            places,
            middles,
            0.92 * width,
            yerr=whiskers,
            color=colour,
            label=found.peer.label,
            error_kw={"elinewidth": 0.7, "ecolor": "#333333"},
        )
        axes.bar_label(bars, fmt="{:.0f}", rotation=90, padding=4, fontsize=7)
    axes.set_title(f"prompts of {length} tokens, {plan.new_tokens} new tokens each", fontsize=10, loc="left")
    axes.set_ylabel("tokens/s, prefill included")
    axes.set_xticks(range(len(plan.batches)), [f"batch {batch}" for batch in plan.batches])
    axes.margins(y=0.16)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4)
    axes.set_axisbelow(True)
