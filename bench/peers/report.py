"""The report of a run: tables of medians with min and max, shares of the memory's limit, ratios, bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.peers.rounds import DISTURBED, LEAST_SECONDS, TRIES, Cell, CellFigures, PeerResult, Sweep
from perf.report import markdown_table, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUP = 0.86  # of the distance between two groups, the bars of one
OURS = ("#b3202c", "#e0575b", "#f0908f", "#f7c3c1")
OTHERS = ("#8d99ae", "#5c677d", "#6a4c93", "#2a6f97", "#00808a", "#c98b2b", "#e3b45f")

Values = Callable[[CellFigures], list[float]]


def speed(figures: CellFigures) -> list[float]:
    return figures.tokens_per_second


def first_token(figures: CellFigures) -> list[float]:
    return [1000 * value for value in figures.first_token]


def every_first_token(figures: CellFigures) -> list[float]:
    return [1000 * value for value in figures.every_first_token]


def share_of_limit(found: PeerResult, cell: Cell, bandwidth: float) -> float:
    """Of the tokens/s at which a decode step would take only the time of reading the weights."""
    limit = cell.batch * bandwidth / found.peer.step_bytes
    return median(found.figures[cell].tokens_per_second) / limit


def describe(measured: Sequence[PeerResult], plan: Sweep, bandwidth: float) -> str:
    """The report in Markdown."""
    parts = [_introduction(measured, plan, bandwidth)]
    for length in plan.prompt_lengths:
        parts += [
            f"## Prompts of {length} tokens\n",
            "Tokens/s, prefill included:\n",
            _table(measured, plan, length, speed, ".0f"),
            _ratios(measured, plan, length),
            "Share of the memory's limit (per cent):\n",
            _shares(measured, plan, length, bandwidth),
            "Milliseconds to the first token, of the median sequence:\n",
            _table(measured, plan, length, first_token, ".0f"),
            "Milliseconds until every sequence has its first token:\n",
            _table(measured, plan, length, every_first_token, ".0f"),
        ]
    return "\n".join(parts)


def as_data(measured: Sequence[PeerResult], plan: Sweep, bandwidth: float) -> dict[str, Any]:
    """The report for programs, every round's value in it."""
    return {
        "plan": asdict(plan),
        "bandwidth_bytes_per_second": bandwidth,
        "peers": [
            {
                "name": found.peer.name,
                "label": found.peer.label,
                "versions": found.versions,
                "settings": found.settings,
                "step_bytes": found.peer.step_bytes,
                "first_tokens_as_first_peer": found.agreement,
                "others_share_of_cores": found.others,
                "cells": [
                    {
                        **asdict(cell),
                        **asdict(found.figures[cell]),
                        "share_of_limit": share_of_limit(found, cell, bandwidth),
                    }
                    for cell in plan.cells
                ],
            }
            for found in measured
        ],
    }


def _introduction(measured: Sequence[PeerResult], plan: Sweep, bandwidth: float) -> str:
    first = measured[0].peer.label
    rows = [
        (
            found.peer.label,
            ", ".join(f"{name} {number}" for name, number in found.versions.items()),
            found.settings,
            f"{found.peer.step_bytes / 1e6:.0f}",
            f"{100 * found.agreement:.0f}",
            f"{100 * median(found.others):.0f} (at most {100 * max(found.others):.0f})",
        )
        for found in measured
    ]
    columns = (
        "peer",
        "versions",
        "settings",
        "MB a step",
        f"% first tokens as {first}",
        "% of the cores that others took",
    )
    return (
        f"GPT-2's 124M shape with random weights, {plan.threads} threads each, {plan.new_tokens} new tokens "
        f"of each sequence, greedy, all prompts submitted at once; other random prompts for every round, the "
        f"same for all peers, and no prefix cache. Median (min to max) of {plan.rounds} rounds, in which the "
        f"peers take turns, one running and the others stopped. A peer done within {LEAST_SECONDS:g} s "
        f"begins again with other prompts, and all of that is one value. Where other processes took more "
        f"than {100 * DISTURBED:.0f} % of the cores, all did that work again, at most {TRIES} times in all, "
        f"and the try with the least other load counts.\n\n"
        f"Memory is read at {bandwidth / 1e9:.1f} GB/s. The limit of a decode step is the reading of the "
        f"matrices (MB a step) at that rate; prefill and KV caches come on top.\n\n"
        f"{markdown_table(columns, rows)}"
    )


def _cells(plan: Sweep, length: int) -> list[Cell]:
    return [cell for cell in plan.cells if cell.prompt_length == length]


def _columns(plan: Sweep) -> list[str]:
    return ["peer", *(f"batch {batch}" for batch in plan.batches)]


def _table(measured: Sequence[PeerResult], plan: Sweep, length: int, values: Values, form: str) -> str:
    rows = [
        [found.peer.label, *(spread(values(found.figures[cell]), form) for cell in _cells(plan, length))]
        for found in measured
    ]
    return markdown_table(_columns(plan), rows)


def _shares(measured: Sequence[PeerResult], plan: Sweep, length: int, bandwidth: float) -> str:
    rows = [
        [
            found.peer.label,
            *(f"{100 * share_of_limit(found, cell, bandwidth):.0f}" for cell in _cells(plan, length)),
        ]
        for found in measured
    ]
    return markdown_table(_columns(plan), rows)


def _ratios(measured: Sequence[PeerResult], plan: Sweep, length: int) -> str:
    """Each of ours over the best of the others, by medians; nothing where there are no others."""
    others = [found for found in measured if not found.peer.is_ours]
    groups = {
        "best int8 peer": [found for found in others if found.peer.is_int8],
        "best peer": others,
    }
    rows = [
        [
            f"{found.peer.label} : {name}",
            *(_ratio(found, group, cell) for cell in _cells(plan, length)),
        ]
        for found in measured
        if found.peer.is_ours
        for name, group in groups.items()
        if group
    ]
    if not rows:
        return ""
    return "Ours against the best of the others, by medians:\n\n" + markdown_table(_columns(plan), rows)


def _ratio(mine: PeerResult, others: Sequence[PeerResult], cell: Cell) -> str:
    def typical(found: PeerResult) -> float:
        return median(found.figures[cell].tokens_per_second)

    best = max(others, key=typical)
    return f"{typical(mine) / typical(best):.2f} ({best.peer.name})"


def draw(measured: Sequence[PeerResult], plan: Sweep) -> Figure:
    """Bars of tokens/s grouped by batch, a panel for each prompt length; whiskers from least to largest."""
    from matplotlib.figure import Figure

    height = 3.9 * len(plan.prompt_lengths)
    figure = Figure(figsize=(max(8.0, 2.6 * len(plan.batches)), height), layout="constrained")
    panels = figure.subplots(len(plan.prompt_lengths), 1, squeeze=False)[:, 0]
    colours = _colours(measured)
    for length, axes in zip(plan.prompt_lengths, panels, strict=True):
        _panel(axes, measured, plan, length, colours)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=4, loc="outside upper center", frameon=False, fontsize=9)
    return figure


def _colours(measured: Sequence[PeerResult]) -> list[str]:
    mine, others = iter(OURS), iter(OTHERS)
    return [next(mine if found.peer.is_ours else others) for found in measured]


def _panel(
    axes: Any, measured: Sequence[PeerResult], plan: Sweep, length: int, colours: Sequence[str]
) -> None:
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
