"""The reports of loads and of capacities: tables, curves, and every figure as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from perf.curves import Line, Panel, draw, percentile_panel
from perf.http.ask import Ask
from perf.http.capacity import Found, Probe
from perf.http.figures import Figures
from perf.http.plan import Plan
from perf.http.run import Measurement
from perf.report import markdown_table, spread, times, write_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Columns = dict[str, object]
BUSY = 0.5  # share of a core
LEAST_ANSWERS = 5  # one after another within a window


def write_loads(name: str, command: str, plan: Plan, measured: Sequence[Measurement]) -> None:
    """To perf/results/NAME.md, NAME.json and NAME.png."""
    data = {
        "plan": asdict(plan),
        "levels": [
            {"target": each.target.name, "load": asdict(each.level), **each.figures.as_json()}
            for each in measured
        ],
    }
    text = f"{described(plan)}\n\n{tables(plan, measured)}"
    write_report(name, command, text, data, partial(plot, plan, measured))


def described(plan: Plan) -> str:
    """The plan in one or two sentences."""
    extent = plan.extent
    window = f"{extent.seconds:g} s" if extent.requests is None else f"{extent.requests} requests"
    loop = f"an open loop, {plan.arrivals.value} arrivals" if plan.open_loop else "a closed loop"
    rounds = f", {plan.rounds} rounds" if plan.rounds > 1 else ""
    servers = "; ".join(
        f"{each.name}: {each.serves}, by the API of {each.api.value}" for each in plan.targets
    )
    return (
        f"Asked: {plan.ask.described(plan.texts)}. Load: {loop}, {window} after {extent.warmup:g} s of"
        f" warm-up{rounds}, seed {plan.seed}. {servers}.\n\n"
        "Times are milliseconds; the docstring of `perf/http/__init__.py` defines the terms."
    )


def tables(plan: Plan, measured: Sequence[Measurement]) -> str:
    """Figures, then what the client cost, then errors by kind."""
    level = "requests/s offered" if plan.open_loop else "under way"
    head = (level, "server")
    text = _table(head, measured, _streamed if plan.ask.streamed else _whole)
    text += f"\nThe client, and what it counted:\n\n{_table(head, measured, _client)}"
    if any(each.figures.client.cpu_share > BUSY for each in measured):
        text += f"\nWhere the client took more than {BUSY:.0%} of a core, it may limit the figures.\n"
    if hurried := [each for each in measured if _hurried(plan, each.figures)]:
        which = ", ".join(f"{each.target.name} at {each.level.label}" for each in hurried)
        text += (
            f"\nAn answer of {which} takes longer than the warm-up, or than a window has time for"
            f" {LEAST_ANSWERS}: how it began may show there.\n"
        )
    errors = [
        (each.level.label, each.target.name, kind, count, f"{count / each.figures.requests:.1%}")
        for each in measured
        for kind, count in each.figures.errors.items()
    ]
    if errors:
        text += f"\nErrors:\n\n{markdown_table((*head, 'kind', 'requests', 'share'), errors)}"
    return text


def _hurried(plan: Plan, figures: Figures) -> bool:
    extent, found = plan.extent, figures.end_to_end
    if found is None or extent.requests is not None:
        return False
    return found.p50 > min(extent.warmup, extent.seconds / LEAST_ANSWERS)


def _table(
    head: Sequence[str], measured: Sequence[Measurement], columns: Callable[[Figures], Columns]
) -> str:
    rows = [(each.level.label, each.target.name, *columns(each.figures).values()) for each in measured]
    return markdown_table((*head, *columns(measured[0].figures)), rows)


def _streamed(figures: Figures) -> Columns:
    return {
        "requests/s": _rate(figures.requests_per_second),
        "tokens/s": _rate(figures.tokens_per_second, ".0f"),
        **times("first token", figures.first_token, ("p50", "p90", "p95", "p99")),
        **times("between tokens", figures.between_tokens, ("p50", "p99")),
        **times("between events", figures.between_events, ("p50", "p99")),
        **times("end to end", figures.end_to_end, ("p50", "p95")),
        **_outcomes(figures),
    }


def _whole(figures: Figures) -> Columns:
    return {
        "requests/s": _rate(figures.requests_per_second),
        "tokens/s": _rate(figures.tokens_per_second, ".0f") if figures.counted_by else "",
        **times("end to end", figures.end_to_end, ("least", "p50", "p90", "p95", "p99", "most")),
        **_outcomes(figures),
    }


def _outcomes(figures: Figures) -> Columns:
    fairness = figures.slowest_over_median
    return {
        "slowest / median": "" if fairness is None else f"{fairness:.2f}",
        "failed": f"{figures.requests - figures.succeeded} of {figures.requests}",
    }


def _client(figures: Figures) -> Columns:
    client, prompt, events = figures.client, figures.prompt_tokens, figures.tokens_per_event
    return {
        "CPU, share of a core": f"{client.cpu_share:.1%}",
        "CPU µs per piece": f"{1e6 * client.cpu_seconds_per_piece:.0f}",
        **times("sent late by", client.lag, ("p50", "p99")),
        "tokens per event": "" if events is None else f"{events:.2f}",
        "tokens counted by": ", ".join(figures.counted_by),
        "prompt tokens": "" if prompt is None else f"{prompt.mean:.1f}",
    }


def _rate(values: Sequence[float], form: str = ".1f") -> str:
    return spread(values, form) if len(values) > 1 else f"{values[0]:{form}}"


def plot(plan: Plan, measured: Sequence[Measurement]) -> Figure:
    """Throughput, and percentiles of the times, over the levels."""
    names = [target.name for target in plan.targets]
    by_target = {name: [each.figures for each in measured if each.target.name == name] for name in names}
    streamed = plan.ask.streamed
    rate: Callable[[Figures], float] = (
        (lambda each: each.token_rate) if streamed else (lambda each: each.rate)
    )
    unit = "tokens/s" if streamed else "requests/s"
    lines = [Line(name, name, [rate(each) for each in levels]) for name, levels in by_target.items()]
    panels = [Panel("Throughput", unit, lines)]

    def add(title: str, found: Callable[[Figures], Any]) -> None:
        curves = {name: [found(each) for each in levels] for name, levels in by_target.items()}
        panels.append(percentile_panel(title, curves))

    if streamed:
        add("Time to first token", lambda each: each.first_token)
        add("Time between tokens", lambda each: each.between_tokens)
    add("End to end", lambda each: each.end_to_end)
    levels = [level.rate if level.rate is not None else level.concurrency for level in plan.levels]
    axis = "requests/s offered" if plan.open_loop else "requests under way"
    title = f"{plan.ask.task.value}: {', '.join(names)}"
    return draw(title, axis, levels, panels)


def write_capacities(name: str, command: str, found: Sequence[tuple[Found, Ask]]) -> None:
    """To perf/results/NAME.md, NAME.json and NAME.png."""
    rows = [_capacity_row(each, ask) for each, ask in found]
    columns = ("deployment", "task", "requests/s", "tokens/s", "p95, ms", "target, ms", "of")
    text = (
        "The highest rate of Poisson arrivals at which the 95th percentile stays within the"
        f" target (`perf/http/capacity.py` defines it):\n\n{markdown_table(columns, rows)}"
    )
    for each, _ in found:
        text += f"\n{each.deployed.label}, probe by probe:\n\n{_probes(each.probes)}"
    data = {"capacities": [asdict(each) for each, _ in found]}
    panels = [_panel(each) for each, _ in found]
    write_report(name, command, text, data, partial(draw, "Capacity", "requests/s offered", [], panels))


def _capacity_row(found: Found, ask: Ask) -> tuple[object, ...]:
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
