"""What perf_analyzer 2.50 wrote on a real Triton: mini-lm and mini-sentiment, two requests under way.

Of the export three requests were kept, each for 8 tokens past the end-of-text token.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from perf.errors import AnalyzerError
from perf.triton.analysis import read_analysis, read_stream

RECORDED = Path(__file__).parent / "recorded"
REPORT = (RECORDED / "mini-lm.csv").read_text("utf-8")
EXPORT = (RECORDED / "mini-lm.json").read_text("utf-8")


def requests() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(EXPORT)["experiments"][0]["requests"]
    return found


def test_the_report_of_a_head() -> None:
    analysis = read_analysis((RECORDED / "mini-sentiment.csv").read_text("utf-8"), None)
    assert (analysis.concurrency, analysis.requests_per_second) == (2, 872.169)
    assert analysis.latency == pytest.approx(
        {"p50": 0.001636, "p90": 0.004015, "p95": 0.004605, "p99": 0.006438}
    )
    assert (analysis.responses_per_second, analysis.stream, analysis.tokens_per_second) == (None, None, None)


def test_the_report_of_a_stream() -> None:
    analysis = read_analysis(REPORT, EXPORT)
    assert (analysis.requests_per_second, analysis.responses_per_second) == (166.97, 1015.62)
    assert analysis.tokens_per_second == pytest.approx(8 * 166.97)


def test_times_of_a_stream_are_those_of_its_responses() -> None:
    stream = read_stream(json.loads(EXPORT))
    firsts = sorted(each["response_timestamps"][0] - each["timestamp"] for each in requests())
    lasts = sorted(each["response_timestamps"][-1] - each["timestamp"] for each in requests())
    gaps = [b - a for each in requests() for a, b in pairwise(each["response_timestamps"])]
    assert stream.requests == 3
    assert stream.first_response.p50 == pytest.approx(firsts[1] * 1e-9)
    assert stream.last_response.p50 == pytest.approx(lasts[1] * 1e-9)
    assert stream.between_responses is not None
    assert stream.between_responses.count == len(gaps)
    assert stream.between_responses.most == pytest.approx(max(gaps) * 1e-9)


def test_tokens_are_counted_by_the_ids_in_the_responses() -> None:
    stream = read_stream(json.loads(EXPORT))
    responses = [len(each["response_timestamps"]) for each in requests()]
    assert stream.tokens_per_request == 8
    assert stream.responses_per_request == pytest.approx(sum(responses) / 3)
    assert stream.between_tokens is not None
    firsts = [json.loads(each["response_outputs"][0]["details"])["choices"] for each in requests()]
    with_the_first = sum(len(choice["token_ids"]) for choices in firsts for choice in choices)
    assert stream.between_tokens.count == 3 * 8 - with_the_first


def test_a_request_without_an_answer_is_left_out() -> None:
    export = json.loads(EXPORT)
    cut_off = {**requests()[0], "response_timestamps": [], "response_outputs": []}
    export["experiments"][0]["requests"].append(cut_off)
    assert read_stream(export).requests == 3


def test_an_export_of_nothing() -> None:
    with pytest.raises(AnalyzerError, match="no request"):
        read_stream({"experiments": [{"requests": []}]})


@pytest.mark.parametrize(
    ("report", "export"),
    [
        ("", None),
        (REPORT, ""),
        (REPORT + REPORT.splitlines()[1], None),
        ("Concurrency\n1\n", None),
        (REPORT, "{}"),
    ],
)
def test_what_cannot_be_read(report: str, export: str | None) -> None:
    with pytest.raises(AnalyzerError, match="cannot be read"):
        read_analysis(report, export)
