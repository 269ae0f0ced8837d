"""`lmaas evaluate` and `lmaas calibrate` as their user sees them, without a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lmaas import app
from tests.train.evaluation.conftest import TEXTS
from tests.train.evaluation.conftest import made as made

Made = Callable[[str], tuple[Path, Path]]
FAST = ("--resamples", "20", "--latency-requests", "3", "--threads", "1")


def lmaas(*arguments: object, status: int = 0) -> str:
    ended = CliRunner().invoke(app, [str(each) for each in arguments], terminal_width=200)
    assert ended.exit_code == status, ended.output
    return ended.stderr if status else ended.stdout


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.csv"
    labels = ["bad", "good", "fair", "bad", "good", "fair"]
    file.write_text("text,label\n" + "".join(f"{t},{b}\n" for t, b in zip(TEXTS, labels, strict=True)))
    return file


def test_two_targets_with_all_that_is_written(made: Made, rows: Path, tmp_path: Path) -> None:
    checkpoint, artifact = made("classifier")
    report, text, plots = tmp_path / "r.json", tmp_path / "r.md", tmp_path / "plots"
    files = ("--json", report, "--markdown", text, "--plots", plots)
    printed = lmaas("evaluate", "--compare", checkpoint, artifact, rows, *FAST, *files)
    assert "McNemar, exact" in printed
    found = json.loads(report.read_text())
    assert found["data"] == {"file": str(rows), "rows": 6}
    assert [each["target"]["place"] for each in found["evaluations"]] == ["checkpoint", "artifact"]
    first, second = (each["figures"]["accuracy"] for each in found["evaluations"])
    assert first == second
    assert first["low"] <= first["value"] <= first["high"]
    assert found["evaluations"][0]["speed"]["latency"]["count"] == 3
    assert [each["p_value"] for each in found["differences"] if each["name"] == "accuracy"] == [1.0]
    assert "| accuracy |" in text.read_text()
    kinds = {path.stem.rpartition("-")[2] for path in plots.iterdir()}
    assert kinds == {"confusion", "roc", "reliability", "latency"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots.iterdir())


def test_a_language_model(made: Made, tmp_path: Path) -> None:
    data = tmp_path / "stories.txt"
    data.write_text("\n\n".join(TEXTS))
    printed = lmaas("evaluate", made("lm")[1], data, *FAST, "--window", "20")
    assert "perplexity per word" in printed
    assert "windows of 20 tokens" in printed


def test_a_baseline_alone_and_beside(made: Made, rows: Path) -> None:
    alone = lmaas("evaluate", rows, "--baseline", rows, *FAST)
    assert "logistic regression" in alone
    assert "paired bootstrap" in lmaas("evaluate", made("classifier")[1], rows, "--baseline", rows, *FAST)


def test_utterances(made: Made, tmp_path: Path) -> None:
    data = tmp_path / "utterances.jsonl"
    row = {"tokens": ["the", "cat"], "tags": ["O", "B-artist"]}
    data.write_text("".join(json.dumps({**row, "intent": intent}) + "\n" for intent in ("play", "book")))
    printed = lmaas("evaluate", made("nlu")[1], data, *FAST)
    assert "slot F1" in printed
    assert "sentence accuracy" in printed


def test_calibration_of_an_artifact_is_used_by_its_evaluation(made: Made, rows: Path) -> None:
    _, artifact = made("classifier")
    file = artifact / "calibration.json"
    assert "nothing was stored" in lmaas("calibrate", artifact, rows, "--dry-run", "--threads", "1")
    assert not file.exists()
    try:
        value = json.loads(lmaas("calibrate", artifact, rows, "--json", "--threads", "1"))
        assert json.loads(file.read_text()) == value
        assert value["figures"]["log loss"] <= value["figures"]["log loss before"]
        report = rows.with_suffix(".json")
        lmaas("evaluate", artifact, rows, *FAST, "--json", report)
        (found,) = json.loads(report.read_text())["evaluations"]
        assert found["figures"]["log loss"]["value"] == pytest.approx(value["figures"]["log loss"], abs=1e-4)
    finally:
        file.unlink(missing_ok=True)


def test_what_is_wrong_is_one_line(made: Made, rows: Path, tmp_path: Path) -> None:
    checkpoint, artifact = made("classifier")
    other = tmp_path / "other.csv"
    other.write_text("text,label\na,none\n")
    for arguments, message in (
        (("evaluate", artifact, other), "row 2: 'none' is no label"),
        (("evaluate", artifact, tmp_path / "missing.csv"), "missing.csv"),
        (("evaluate", tmp_path, rows), "neither manifest.json"),
        (("calibrate", checkpoint, rows), "export it first"),
        (("calibrate", made("lm")[1], rows), "language model"),
    ):
        printed = lmaas(*arguments, status=1)
        assert message in printed
        assert printed.count("\n") == 1
    assert "are needed" in lmaas("evaluate", "--compare", artifact, rows, status=2)
