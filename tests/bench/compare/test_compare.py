"""Two checkouts with workers of a given speed: which side is slower, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.checkpoints import TOKENIZER_OF
from bench.peers import protocol

# It reports times without having spent them, so that the verdict does not depend on the machine.
WORKER = """
from {room}.peers.protocol import Run, serve

class Timed:
    def __init__(self, order):
        self.versions = {{}}
        assert (order.source / "tokenizer.json").is_file(), order.source
        self.settings = order.converted

    def run(self, prompts, new_tokens):
        seconds = {seconds} * len(prompts)
        return Run(seconds, [seconds / 10] * len(prompts), [[1] * new_tokens for _ in prompts])

serve(Timed)
"""
# Likewise: the seconds that the process took do not count beside these.
STARTER = "import time; print(time.perf_counter(), time.perf_counter() + 10_000 * {seconds})"


def checkout(root: Path, room: str, seconds: float) -> Path:
    """A folder that has of a checkout what is asked of it; `room` is where its worker is."""
    peers, stack = root / room / "peers", root / room / "stack"
    for folder in (peers, stack):
        folder.mkdir(parents=True)
    (root / "lmaas.py").touch()
    for folder in (peers.parent, peers, stack):
        (folder / "__init__.py").touch()
    (stack / "first_token.py").write_text(STARTER.format(seconds=seconds))
    (peers / "protocol.py").symlink_to(protocol.__file__)
    (peers / "ours.py").write_text(WORKER.format(room=room, seconds=seconds))
    return root


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("bench.report.RESULTS", tmp_path / "results")
    monkeypatch.setattr("bench.peers.worker.HOME", tmp_path / "workers")
    return tmp_path / "results"


def compare(old: Path, new: Path, *arguments: str) -> tuple[int, str]:
    work = ["--prompt-tokens", "4", "--max-tokens", "8", "--streams", ""]
    options = ["--checkpoint", os.path.relpath(TOKENIZER_OF), *work]
    ended = CliRunner().invoke(
        app, ["compare", str(old), str(new), *options, *arguments], catch_exceptions=False
    )
    return ended.exit_code, ended.output


@pytest.mark.parametrize(("seconds", "status", "verdict"), [(2.2, 1, "WORSE"), (2.04, 0, "the same")])
def test_each_side_runs_its_own_code(
    tmp_path: Path, results: Path, seconds: float, status: int, verdict: str
) -> None:
    old, new = checkout(tmp_path / "a", "perf", 2.0), checkout(tmp_path / "b", "bench", seconds)
    ended, output = compare(old, new, "--batches", "1,2", "--rounds", "3")
    assert ended == status, output
    found = json.loads((results / "compare.json").read_text("utf-8"))
    assert found["sides"] == {"old": "a", "new": "b"}
    start, *_, speed, first = found["figures"]
    assert start["ratio"] == pytest.approx(seconds / 2.0, rel=1e-3)
    assert (speed["figure"], speed["old"]) == ("in process, batch 2", [4.0] * 3)
    assert speed["ratio"] == pytest.approx(2.0 / seconds)
    assert first["new"] == pytest.approx([seconds * 2 / 10] * 3)
    assert {figure["verdict"] for figure in found["figures"]} == {verdict}


def test_the_tolerance_is_the_users(tmp_path: Path) -> None:
    old, new = checkout(tmp_path / "a", "perf", 2.0), checkout(tmp_path / "b", "bench", 2.2)
    assert compare(old, new, "--batches", "1", "--rounds", "1", "--tolerance", "12")[0] == 0


def test_what_cannot_be_compared(tmp_path: Path, results: Path) -> None:
    old, new = checkout(tmp_path / "a", "perf", 2.0), checkout(tmp_path / "b", "bench", 2.0)
    status, output = compare(tmp_path, new)
    assert (status, "OLD: " in output, "bench/peers/ours.py or perf/peers/ours.py" in output) == (
        1,
        True,
        True,
    )
    assert compare(old, new, "--batches", "")[1].endswith("both are empty; give one of them\n")
    (old / "kernels").mkdir()
    (old / "kernels" / "operators.so").touch()
    assert "NEW: kernels/ has no compiled operators, but OLD has operators.so" in compare(old, new)[1]
    assert not results.exists()
