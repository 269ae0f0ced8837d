"""`lmaas perf` as its user meets it: help, mistakes, and what is passed on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from cli import perf as commands
from client.http import Client
from lmaas import app
from perf.deployed import Deployed
from perf.http.ask import Task
from perf.http.capacity import Capacity, Found
from runtime.contract import Kind

NOWHERE = "http://127.0.0.1:9"


def perf(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["perf", *arguments])


@pytest.mark.parametrize("command", ["http", "triton", "capacity"])
def test_every_command_is_listed(command: str) -> None:
    assert f" {command} " in perf("--help").output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["http"], "give either --concurrency (a closed loop) or --rate (an open loop)"),
        (["http", "--concurrency", "x"], "--concurrency: 'x' is not a list of whole numbers"),
        (["http", "--rate", "5", "--task", "rhyme"], "--task: 'rhyme' is not one of generate"),
        (["http", "--rate", "5", "--arrivals", "rare"], "--arrivals: 'rare' is not one of poisson, constant"),
        (["http", "--rate", "5", "--peer", "vllm"], "--peer: 'vllm' is not NAME=API@URL"),
        (["http", "--rate", "5", "--prompt-tokens", "8"], "--prompt-tokens: needs --tokenizer"),
        (["http", "--rate", "5", "--url", NOWHERE], f"nothing answers at {NOWHERE}"),
        (["capacity", "--url", NOWHERE], f"nothing answers at {NOWHERE}"),
        (["triton", "--url", NOWHERE], f"nothing answers at {NOWHERE}"),
        (["triton", "--concurrency", "0"], "--concurrency: '0' is not a list of whole numbers"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], told: str) -> None:
    ended = perf(*arguments)
    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"lmaas: {told}")
    assert ended.stderr.count("\n") == 1


def test_gpu_is_still_found_here() -> None:
    command = [sys.executable, "-m", "lmaas", "perf", "gpu", "--help"]
    variables = {**os.environ, "PYTHONPATH": str(commands.ROOT)}
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "python -m bench gpu" in ended.stdout


def test_gpu_without_the_source_tree_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    ended = perf("gpu")
    assert ended.exit_code == 1
    assert "which only the source tree has" in ended.stderr


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    for name in [name for name in sys.modules if name.startswith("perf.http")]:
        monkeypatch.delitem(sys.modules, name)
    ended = perf("http", "--rate", "5")
    assert ended.exit_code == 1
    assert "`lmaas perf` needs httptools: pip install 'lmaas[perf]'" in ended.stderr


def test_a_capacity_goes_to_the_deployment_s_record(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Recorder(Client):
        def call(self, method: str, path: str, **arguments: Any) -> Any:
            calls.append((method, path, arguments))

    @contextmanager
    def connect(url: str) -> Iterator[Client]:
        with httpx.Client(base_url=url) as http:
            yield Recorder(http=http)

    monkeypatch.setattr(commands, "Client", connect)
    deployed = Deployed("dep-1", "mini-lm", 1, "int8", Kind.LM, Task.GENERATE)
    capacity = Capacity(12.5, 800.0, 0.4, 0.5, "2026-11-24T18:00:00+00:00", "lmaas perf capacity --record")
    commands._record(NOWHERE, Found(deployed, capacity, []))
    body = {
        "requests_per_second": 12.5,
        "tokens_per_second": 800.0,
        "p95_seconds": 0.4,
        "target_seconds": 0.5,
        "measured_at": "2026-11-24T18:00:00+00:00",
        "command": "lmaas perf capacity --record",
    }
    assert calls == [("PATCH", "/v1/deployments/dep-1", {"json": {"capacity": body}})]
