"""`python -m bench stack` on the real stack: each measurement, as short as it can be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from tests.e2e.appliance import Appliance

LM, CLASSIFIER = ["--model", "mini-lm"], ["--model", "mini-sentiment"]


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("bench.report.RESULTS", tmp_path)
    return tmp_path


def report(appliance: Appliance, results: Path, what: str, *arguments: str) -> dict[str, Any]:
    """Measure and read what was written: every target has a verdict."""
    ended = CliRunner().invoke(app, ["stack", what, *arguments, "--url", appliance.url])
    assert ended.exit_code == 0, ended.output
    data: dict[str, Any] = json.loads((results / f"stack-{what}.json").read_text("utf-8"))
    assert all(math.isfinite(target["found"]) for target in data["targets"])
    assert (results / f"stack-{what}.md").read_text("utf-8").count("Target: ") == len(data["targets"])
    return data


def test_in_process(appliance: Appliance, results: Path) -> None:
    length = ["--streams", "4", "--rounds", "1", "--seconds", "0.5", "--warmup", "0.1", "--max-tokens", "8"]
    data = report(appliance, results, "in-process", *LM, *length)
    assert len(data["over_http"]) == len(data["in_process"]) == 1


def test_facade(appliance: Appliance, results: Path) -> None:
    data = report(appliance, results, "facade", *LM, "--pairs", "10", "--prompt-tokens", "8")
    assert len(data["http_seconds"]) == len(data["grpc_seconds"]) == 10
    assert 0 < min(data["grpc_seconds"]) < 1


def test_classify(appliance: Appliance, results: Path) -> None:
    load = ["--batch", "8", "--single", "8", "--lists", "16x1", "--rounds", "1", "--seconds", "0.2"]
    data = report(appliance, results, "classify", *CLASSIFIER, *load)
    assert len(data["texts_per_second"]) == 4
    assert all(rate > 0 for (rate,) in data["texts_per_second"].values())
    bare, _, _, listed = data["processor_seconds_per_text"].values()
    assert bare.keys() == {"this command"}
    assert {"this command", "façade", "model mini-sentiment"} <= listed.keys()


def test_long_prompts(appliance: Appliance, results: Path) -> None:
    load = ["--streams", "2", "--max-tokens", "32", "--prompt-tokens", "200", "--rate", "2"]
    length = ["--rounds", "1", "--seconds", "1.5", "--warmup", "0.1"]
    data = report(appliance, results, "long-prompts", *LM, *load, *length)
    assert 0 < data["long_prompt_seconds"]["count"] <= 3  # all of them where the machine is not busy


def test_memory(appliance: Appliance, results: Path) -> None:
    data = report(appliance, results, "memory", *LM, "--prompt-tokens", "16", "--max-tokens", "16")
    names = {process["name"] for process in data["fullest"]["processes"]}
    assert {"façade", "guard", "Triton", "model mini-lm"} <= names
    for process in data["fullest"]["processes"]:
        assert 0 < process["pss"] <= process["rss"]


def test_idle(appliance: Appliance, results: Path) -> None:
    data = report(appliance, results, "idle", "--seconds", "0.2")
    assert {"façade", "Triton", "model mini-lm"} <= data["cpu_seconds"].keys()
    assert data["states"]["mini-lm"] == "ready"
    assert data["unloaded"] is None


def test_start(appliance: Appliance, results: Path) -> None:
    data = report(appliance, results, "start", *LM, "--rounds", "1")
    assert 0 < data["loaded"][0] < data["first_token"][0]
    assert 0 < data["deployed"][0] < data["first_answer"][0]
    assert appliance.ready()
