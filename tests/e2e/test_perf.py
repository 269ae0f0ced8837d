"""`lmaas perf` on the real stack: load over HTTP, a capacity, and perf_analyzer where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lmaas import app
from perf.http import capacity
from perf.triton.installation import FOLDER
from tests.e2e.appliance import Appliance


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("perf.report.RESULTS", tmp_path)
    return tmp_path


def report(results: Path, name: str, *arguments: str) -> dict[str, Any]:
    """Run `lmaas perf` and read what it wrote."""
    ended = CliRunner().invoke(app, ["perf", *arguments, "--name", name])
    assert ended.exit_code == 0, ended.output
    assert (results / f"{name}.md").stat().st_size > 0
    data: dict[str, Any] = json.loads((results / f"{name}.json").read_text("utf-8"))
    return data


def test_streams_by_both_apis_in_one_run(appliance: Appliance, results: Path) -> None:
    length = ["--requests", "12", "--warmup", "0.2", "--max-tokens", "8", "--ignore-eos"]
    load = ["--concurrency", "1,4", *length, "--peer", f"openai=openai@{appliance.url}"]
    data = report(results, "both", "http", *load, "--url", appliance.url)
    assert [(level["target"], level["load"]["concurrency"]) for level in data["levels"]] == [
        ("lmaas", 1),
        ("openai", 1),
        ("lmaas", 4),
        ("openai", 4),
    ]
    for level in data["levels"]:
        assert (level["requests"], level["succeeded"], level["errors"]) == (12, 12, {})
        assert 0 < level["first_token"]["p50"] <= level["end_to_end"]["p50"]
        # Eight tokens each: those that came with the first have no interval.
        assert 0 < level["between_tokens"]["count"] <= 12 * 7 + 1e-6
        assert 0 < level["client"]["cpu_seconds_per_piece"] < 0.01


def test_an_open_loop(appliance: Appliance, results: Path) -> None:
    load = ["--rate", "40", "--duration", "1", "--warmup", "0", "--task", "classify"]
    (level,) = report(results, "open", "http", *load, "--url", appliance.url)["levels"]
    assert level["succeeded"] == level["requests"] > 20
    assert level["end_to_end"]["p50"] < 1


def test_what_the_server_refuses_is_told_before_the_load(appliance: Appliance) -> None:
    load = ["--rate", "40", "--task", "classify", "--prompt-words", "3000", "--url", appliance.url]
    ended = CliRunner().invoke(app, ["perf", "http", *load])
    assert ended.exit_code == 1
    assert "this model reads at most" in ended.stderr


def test_a_capacity(appliance: Appliance, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "WARMUP", 0.2)
    monkeypatch.setattr(capacity, "CLOSE", 2.0)
    data = report(results, "capacity", "capacity", "mini-sentiment", "--seconds", "1", "--url", appliance.url)
    (found,) = data["capacities"]
    assert found["deployed"]["model"] == "mini-sentiment"
    assert found["capacity"]["requests_per_second"] > 5
    assert found["capacity"]["p95_seconds"] <= found["capacity"]["target_seconds"] == 0.2


@pytest.mark.skipif(not FOLDER.exists(), reason="`lmaas perf triton` installs perf_analyzer, and was not run")
def test_perf_analyzer(appliance: Appliance, results: Path) -> None:
    steady = ["--window", "0.3", "--stability", "90", "--trials", "20", "--max-tokens", "8", "--ignore-eos"]
    models = ["mini-lm", "mini-sentiment"]
    data = report(results, "triton", "triton", *models, "--concurrency", "2", *steady, "--url", appliance.url)
    lm, head = sorted(data["levels"], key=lambda level: level["deployed"]["model"])
    assert lm["analysis"]["stream"]["tokens_per_request"] == 8
    assert lm["analysis"]["stream"]["first_response"]["p50"] < lm["analysis"]["latency"]["p50"]
    assert head["analysis"]["requests_per_second"] > 5
