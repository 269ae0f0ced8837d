"""The report of a run of perf_analyzer: a table and curves for each deployment, and every figure as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from perf.curves import SHOWN, Line, Panel, draw, percentile_panel
from perf.deployed import Deployed
from perf.http.prompts import Texts
from perf.report import markdown_table, milliseconds, times, write_report
from perf.triton.analysis import PERCENTILES, Analysis
from perf.triton.run import LevelAnalysis, Measuring, Subject
from runtime.contract import Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXIS = "requests under way"


def write_analyses(
    name: str,
    command: str,
    measuring: Measuring,
    texts: Texts,
    subjects: Sequence[Subject],
    levels: Sequence[LevelAnalysis],
) -> None:
    """To perf/results/NAME.md, NAME.json and NAME.png."""
    text = (
        f"perf_analyzer 2.50 on Triton's gRPC, {measuring.words}.\n\n"
        "Times are milliseconds; the docstring of `perf/triton/__init__.py` says what counts from where.\n"
    )
    for subject in subjects:
        rows = [level for level in levels if level.deployed == subject.deployed]
        columns = _streamed if subject.deployed.kind is Kind.LM else _plain
        text += f"\n{subject.deployed.label}, {subject.ask.described(texts)}:\n\n{_table(rows, columns)}"
    data = {
        "measuring": asdict(measuring),
        "levels": [asdict(level) for level in levels],
        "asked": {each.deployed.model: asdict(each.ask) for each in subjects},
    }
    write_report(name, command, text, data, partial(_plot, subjects, levels))


Columns = dict[str, object]


def _table(levels: Sequence[LevelAnalysis], columns: Callable[[Analysis], Columns]) -> str:
    found = [columns(level.analysis) if level.analysis else None for level in levels]
    names = next((list(row) for row in found if row is not None), ["requests/s"])
    missing = ["not steady", *[""] * (len(names) - 1)]
    rows = [
        (level.concurrency, *(missing if row is None else row.values()))
        for level, row in zip(levels, found, strict=True)
    ]
    return markdown_table((AXIS, *names), rows)


def _plain(analysis: Analysis) -> Columns:
    latencies = {f"latency {name}": milliseconds(analysis.latency[name]) for name in PERCENTILES}
    return {"requests/s": f"{analysis.requests_per_second:.1f}", **latencies}


def _streamed(analysis: Analysis) -> Columns:
    stream = analysis.stream
    if stream is None:
        raise AssertionError("a stream has an export")
    return {
        "requests/s": f"{analysis.requests_per_second:.1f}",
        "responses/s": f"{analysis.responses_per_second or 0:.0f}",
        "tokens/s": f"{analysis.tokens_per_second or 0:.0f}",
        **times("first response", stream.first_response, PERCENTILES),
        **times("between tokens", stream.between_tokens, ("p50", "p99")),
        **times("between responses", stream.between_responses, ("p50", "p99")),
        **{f"latency {name}": milliseconds(analysis.latency[name]) for name in ("p50", "p95")},
        "tokens per response": f"{stream.tokens_per_request / stream.responses_per_request:.2f}",
    }


def _plot(subjects: Sequence[Subject], levels: Sequence[LevelAnalysis]) -> Figure:
    """Two panels for each deployment: throughput and times."""
    panels: list[Panel] = []
    for subject in subjects:
        rows = [level.analysis for level in levels if level.deployed == subject.deployed]
        panels += _panels(subject.deployed, rows)
    every = list(dict.fromkeys(level.concurrency for level in levels))
    return draw("perf_analyzer on Triton's gRPC", AXIS, every, panels)


def _panels(deployed: Deployed, levels: Sequence[Analysis | None]) -> list[Panel]:
    title = f"{deployed.label}: "
    if deployed.kind is Kind.LM:
        streams = [None if level is None else level.stream for level in levels]
        curves = {
            "first response": [None if stream is None else stream.first_response for stream in streams],
            "between tokens": [None if stream is None else stream.between_tokens for stream in streams],
        }
        rates = [None if level is None else level.tokens_per_second for level in levels]
        throughput = Panel(f"{title}throughput", "tokens/s", [Line("tokens/s", "", rates)])
        return [throughput, percentile_panel(f"{title}times", curves)]
    rates = [None if level is None else level.requests_per_second for level in levels]
    lines = [
        Line(name, "", [None if level is None else 1000 * level.latency[name] for level in levels], style)
        for name, style in SHOWN.items()
    ]
    throughput = Panel(f"{title}throughput", "requests/s", [Line("requests/s", "", rates)])
    return [throughput, Panel(f"{title}latency", "milliseconds", lines)]
