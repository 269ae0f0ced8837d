"""A report: its command, its three files, and what it says where the library that draws is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from perf.curves import Line, Panel, draw
from perf.report import command_line, markdown_table, write_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("perf.report.RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/x/bin/lmaas", "perf", "http", "--name", "a b"], "lmaas perf http --name 'a b'"),
        (["/x/bench/__main__.py", "peers", "run"], "python -m bench peers run"),
    ],
)
def test_the_command_that_makes_it_again(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], command: str
) -> None:
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.delenv("LMAAS_URL", raising=False)
    assert command_line() == command
    monkeypatch.setenv("LMAAS_URL", "http://h:1")
    assert command_line() == f"LMAAS_URL=http://h:1 {command}"


def test_a_url_on_the_command_line_replaces_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["lmaas", "perf", "capacity", "--url", "http://h:2"])
    monkeypatch.setenv("LMAAS_URL", "http://h:1")
    assert command_line() == "lmaas perf capacity --url http://h:2"


def test_the_files(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def picture() -> Figure:
        return draw("title", "axis", [1, 2], [Panel("panel", "unit", [Line("line", "", [1.0, None])])])

    write_report("name", "a command", "text", {"figure": 1}, picture)
    printed = capsys.readouterr().out
    assert (results / "name.md").read_text("utf-8") in printed
    assert "`a command`\n\ntext" in printed
    data = json.loads((results / "name.json").read_text("utf-8"))
    assert (data["command"], data["figure"]) == ("a command", 1)
    assert data["machine"]["cores"]
    assert (results / "name.png").read_bytes().startswith(b"\x89PNG")


def missing() -> Figure:
    raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")


@pytest.mark.parametrize("picture", [None, missing])
def test_without_a_picture(
    results: Path, capsys: pytest.CaptureFixture[str], picture: Callable[[], Figure] | None
) -> None:
    write_report("name", "a command", "text", {}, picture)
    assert sorted(path.name for path in results.iterdir()) == ["name.json", "name.md"]
    assert ("no plots: they need matplotlib" in capsys.readouterr().out) == (picture is missing)


def test_a_table() -> None:
    assert markdown_table(("a", "b"), [(1, "x")]) == "| a | b |\n| --- | --- |\n| 1 | x |\n"
