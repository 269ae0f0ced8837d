"""`python -m bench compare` with this checkout on both sides: real engines, two real appliances."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.checkpoints import write_checkpoint
from bench.peers import rounds
from tests.e2e.appliance import ROOT


def test_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.report.RESULTS", tmp_path)
    monkeypatch.setattr("bench.peers.worker.HOME", tmp_path)
    monkeypatch.setattr(rounds, "LEAST_SECONDS", 0.0)
    write_checkpoint("gpt2", tmp_path / "tiny", vocab_size=8192, n_layer=1, n_embd=64, n_head=1)
    options = ["--checkpoint", str(tmp_path / "tiny"), "--precision", "fp32", "--threads", "1"]
    options += ["--batches", "2", "--streams", "2", "--prompt-tokens", "8", "--max-tokens", "8"]
    options += ["--rounds", "1", "--seconds", "0.5", "--warmup", "0.1", "--tolerance", "100"]
    ended = CliRunner().invoke(app, ["compare", str(ROOT), str(ROOT), *options])
    assert ended.exit_code == 0, ended.output
    figures = json.loads((tmp_path / "compare.json").read_text("utf-8"))["figures"]
    names = [figure["figure"] for figure in figures]
    in_process, over_http = ["in process, batch 2"] * 2, ["over HTTP, 2 streams"] * 2
    assert names == ["start of an engine", *in_process, *over_http]
    assert all(value > 0 for figure in figures for value in (*figure["old"], *figure["new"]))
