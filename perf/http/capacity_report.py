"""The report of capacities: what holds, every probe on the way there, curves of the p95 over the rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from perf.curves import Line, Panel, draw
from perf.http.ask import Ask
from perf.http.capacity import Found, Probe
from perf.report import markdown_table, result_path, write


def write_capacities(name: str, command: str, found: Sequence[tuple[Found, Ask]]) -> None:
    """To perf/results/NAME.md, NAME.json and NAME.png."""
    rows = [_row(each, ask) for each, ask in found]
    columns = ("deployment", "task", "requests/s", "tokens/s", "p95, ms", "target, ms", "of")
    text = (
        f"`{command}`\n\nThe highest rate of Poisson arrivals at which the 95th percentile stays within the"
        f" target (`perf/http/capacity.py` defines it):\n\n{markdown_table(columns, rows)}"
    )
    for each, _ in found:
        text += f"\n{each.deployed.label}, probe by probe:\n\n{_probes(each.probes)}"
    write(name, text, {"command": command, "capacities": [asdict(each) for each, _ in found]})
    panels = [_panel(each) for each, _ in found]
    if note := draw(result_path(name, ".png"), "Capacity", "requests/s offered", [], panels):
        print(note)


def _row(found: Found, ask: Ask) -> tuple[object, ...]:
    capacity = found.capacity
    return (
        found.deployed.label,
        ask.task.value,
        f"{capacity.requests_per_second:.1f}",
        "" if capacity.tokens_per_second is None else f"{capacity.tokens_per_second:.0f}",
        f"{1000 * capacity.p95_seconds:.1f}",
        f"{1000 * capacity.target_seconds:.0f}",
        "first token" if ask.streamed else "whole answer",
    )


def _probes(probes: Sequence[Probe]) -> str:
    columns = ("requests/s offered", "answered", "p50, ms", "p95, ms", "failed", "holds")
    return markdown_table(
        columns,
        [
            (
                f"{probe.offered:.1f}",
                f"{probe.answered:.1f}",
                _milliseconds(probe.p50_seconds),
                _milliseconds(probe.p95_seconds),
                f"{probe.figures.requests - probe.figures.succeeded} of {probe.figures.requests}",
                "yes" if probe.holds else "no",
            )
            for probe in probes
        ],
    )


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.1f}"


def _panel(found: Found) -> Panel:
    probes = sorted(found.probes, key=lambda probe: probe.offered)

    def scaled(values: Sequence[float | None]) -> list[float | None]:
        return [None if value is None else 1000 * value for value in values]

    lines = [
        Line("p50", "p50", scaled([probe.p50_seconds for probe in probes]), "none"),
        Line("p95", "p95", scaled([probe.p95_seconds for probe in probes]), "none", "^"),
        Line("target", "target", scaled([found.capacity.target_seconds] * len(probes)), marker=""),
    ]
    title = f"{found.deployed.model}: {found.capacity.requests_per_second:.1f} requests/s"
    return Panel(title, "milliseconds", lines, [probe.offered for probe in probes])
