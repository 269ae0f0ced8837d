"""The report of a run: tables of medians with min and max, shares of what the memory allows, ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from perf.peers.rounds import DISTURBED, LEAST_SECONDS, TRIES, Cell, Figures, Measured, Plan
from perf.report import markdown_table, spread

Values = Callable[[Figures], list[float]]


def speed(figures: Figures) -> list[float]:
    return figures.tokens_per_second


def first_token(figures: Figures) -> list[float]:
    return [1000 * value for value in figures.first_token]


def every_first_token(figures: Figures) -> list[float]:
    return [1000 * value for value in figures.every_first_token]


def share_of_limit(found: Measured, cell: Cell, bandwidth: float) -> float:
    """Of the tokens/s at which a decode step would take only the time of reading the weights."""
    limit = cell.batch * bandwidth / found.peer.step_bytes
    return median(found.figures[cell].tokens_per_second) / limit


def describe(measured: Sequence[Measured], plan: Plan, bandwidth: float) -> str:
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


def as_data(measured: Sequence[Measured], plan: Plan, bandwidth: float) -> dict[str, Any]:
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


def _introduction(measured: Sequence[Measured], plan: Plan, bandwidth: float) -> str:
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
        f"peers take turns, one running and the others stopped. Who is done within {LEAST_SECONDS:g} s "
        f"begins again with other prompts, and all of that is one value. Where other processes took more "
        f"than {100 * DISTURBED:.0f} % of the cores, all did that work again, at most {TRIES} times in all, "
        f"and the quietest try counts.\n\n"
        f"Memory is read at {bandwidth / 1e9:.1f} GB/s. The limit of a decode step is the reading of the "
        f"matrices (MB a step) at that rate; prefill and KV caches come on top.\n\n"
        f"{markdown_table(columns, rows)}"
    )


def _cells(plan: Plan, length: int) -> list[Cell]:
    return [cell for cell in plan.cells if cell.prompt_length == length]


def _columns(plan: Plan) -> list[str]:
    return ["peer", *(f"batch {batch}" for batch in plan.batches)]


def _table(measured: Sequence[Measured], plan: Plan, length: int, values: Values, form: str) -> str:
    rows = [
        [found.peer.label, *(spread(values(found.figures[cell]), form) for cell in _cells(plan, length))]
        for found in measured
    ]
    return markdown_table(_columns(plan), rows)


def _shares(measured: Sequence[Measured], plan: Plan, length: int, bandwidth: float) -> str:
    rows = [
        [
            found.peer.label,
            *(f"{100 * share_of_limit(found, cell, bandwidth):.0f}" for cell in _cells(plan, length)),
        ]
        for found in measured
    ]
    return markdown_table(_columns(plan), rows)


def _ratios(measured: Sequence[Measured], plan: Plan, length: int) -> str:
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


def _ratio(mine: Measured, others: Sequence[Measured], cell: Cell) -> str:
    def typical(found: Measured) -> float:
        return median(found.figures[cell].tokens_per_second)

    best = max(others, key=typical)
    return f"{typical(mine) / typical(best):.2f} ({best.peer.name})"
