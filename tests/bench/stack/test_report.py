"""Targets with what they are held to, and a report that begins with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.stack.report import Bound, Report, Target, publish

SHARE = Target("texts/s, of those of a bare session,", Bound.AT_LEAST, 0.8, ".1%")
MEMORY = Target("memory", Bound.AT_MOST, 900, ".0f", " MB")


def test_a_limit_itself_holds() -> None:
    assert (SHARE.holds(0.8), SHARE.holds(0.79)) == (True, False)
    assert (MEMORY.holds(900), MEMORY.holds(901)) == (True, False)


def test_words() -> None:
    assert SHARE.words(0.754) == (
        "Target: texts/s, of those of a bare session, at least 80.0%. Found: 75.4%. MISSED."
    )
    assert MEMORY.words(881.2) == "Target: memory at most 900 MB. Found: 881 MB. holds."


def test_a_report_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.report.RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["/x/bench/__main__.py", "stack", "memory"])
    monkeypatch.delenv("LMAAS_URL", raising=False)
    publish("stack-memory", Report("Empty.", [(MEMORY, 950)], "table", {"x": 1}))
    text = (tmp_path / "stack-memory.md").read_text("utf-8")
    assert text.index("`python -m bench stack memory`") < text.index("MISSED") < text.index("Empty.\n\ntable")
    assert text in capsys.readouterr().out
    data = json.loads((tmp_path / "stack-memory.json").read_text("utf-8"))
    (target,) = data["targets"]
    assert (target["found"], target["holds"], target["bound"], data["x"]) == (950, False, "at most", 1)
