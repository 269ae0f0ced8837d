"""What perf_analyzer wrote about one level: its report, and for streams its export of every request."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from perf.distribution import Distribution
from perf.errors import AnalyzerError

NANOSECONDS = 1e-9
MICROSECONDS = 1e-6
PERCENTILES = ("p50", "p90", "p95", "p99")


@dataclass(frozen=True, slots=True)
class Stream:
    """Of a decoupled model, over all requests of the export. Seconds, from when a request was sent."""

    requests: int
    responses_per_request: float
    tokens_per_request: float
    first_response: Distribution
    between_responses: Distribution | None
    between_tokens: Distribution | None  # as `perf.http` defines it
    last_response: Distribution


@dataclass(frozen=True, slots=True)
class Analysis:
    """Rates per second, latencies in seconds: p50, p90, p95 and p99."""

    concurrency: int
    requests_per_second: float
    responses_per_second: float | None
    latency: dict[str, float]
    stream: Stream | None

    @property
    def tokens_per_second(self) -> float | None:
        return None if self.stream is None else self.requests_per_second * self.stream.tokens_per_request


def read_analysis(report: str, export: str | None) -> Analysis:
    """From the text of the CSV and of the export. Raises AnalyzerError."""
    try:
        (row,) = csv.DictReader(report.splitlines())
        responses = row.get("Response Throughput")
        return Analysis(
            concurrency=int(row["Concurrency"]),
            requests_per_second=float(row["Inferences/Second"]),
            responses_per_second=None if responses is None else float(responses),
            latency={name: float(row[f"{name} latency"]) * MICROSECONDS for name in PERCENTILES},
            stream=None if export is None else read_stream(json.loads(export)),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise AnalyzerError(f"what perf_analyzer wrote cannot be read: {error!r}") from error


def read_stream(export: dict[str, Any]) -> Stream:
    """Requests that a window cut off have no answer in the export and are left out."""
    answered = [
        request
        for experiment in export["experiments"]
        for request in experiment["requests"]
        if request["response_timestamps"]
    ]
    if not answered:
        raise AnalyzerError("perf_analyzer exported no request that was answered")
    gaps: list[float] = []
    tokens: list[int] = []
    total = responses = 0
    for request in answered:
        counts = list(_tokens(request["response_outputs"]))
        total += sum(counts)
        responses += len(counts)
        for (before, after), count in zip(pairwise(request["response_timestamps"]), counts[1:], strict=True):
            gaps.append((after - before) * NANOSECONDS)
            tokens.append(count)
    carrying = [(gap / count, count) for gap, count in zip(gaps, tokens, strict=True) if count]
    first = Distribution.of([_seconds(request, 0) for request in answered])
    last = Distribution.of([_seconds(request, -1) for request in answered])
    if first is None or last is None:
        raise AssertionError("some requests were answered")
    return Stream(
        requests=len(answered),
        responses_per_request=responses / len(answered),
        tokens_per_request=total / len(answered),
        first_response=first,
        between_responses=Distribution.of(gaps),
        between_tokens=Distribution.of([gap for gap, _ in carrying], [count for _, count in carrying]),
        last_response=last,
    )


def _seconds(request: dict[str, Any], place: int) -> float:
    return float((request["response_timestamps"][place] - request["timestamp"]) * NANOSECONDS)


def _tokens(outputs: list[dict[str, Any]]) -> Iterator[int]:
    """How many token ids each response carries, by its `details`."""
    for output in outputs:
        details = json.loads(output["details"]) if output.get("details") else {"choices": ()}
        yield sum(len(choice["token_ids"]) for choice in details["choices"])
