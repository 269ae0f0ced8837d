"""From labelled text to a small model that serves: as docs/training.md says, as one story, and as a task."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lmaas import app
from tests.e2e.appliance import ROOT, Appliance, foreign_variables, home_with, running

DOCUMENT = (ROOT / "docs" / "training.md").read_text()
ROWS = re.findall(r"```csv\n(.*?)```", DOCUMENT, re.DOTALL)[0]
TINY = {"vocabulary": 300, "layers": 2, "width": 64, "context": 64, "batch_size": 4, "precision": "fp32"}


@pytest.mark.timeout(300)
def test_pasted_the_document_trains_and_serves(appliance: Appliance, tmp_path: Path) -> None:
    (tmp_path / "messages.csv").write_text(ROWS)
    blocks = re.findall(r"```console\n(.*?)```", DOCUMENT, re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert any(command.startswith("lmaas train classifier") for command in commands)
    command = tmp_path / "bin" / "lmaas"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lmaas "$@"\n')
    command.chmod(0o755)
    environment = foreign_variables() | {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LMAAS_URL": appliance.url,
        # Threads that wait for each other on a busy machine are slower than one.
        "OMP_NUM_THREADS": "1",
    }
    try:
        for pasted in commands:
            ended = subprocess.run(
                ["bash", "-c", pasted], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert ended.returncode == 0, f"{pasted}\n{ended.stdout}{ended.stderr}"
        answer = appliance.post("/v1/classify", {"input": "Win a free prize now!", "model": "spam"})
        assert answer["results"][0]["label"] == "spam", json.dumps(answer)
    finally:
        appliance.http.delete("/v1/models/spam", params={"force": True})


def lmaas(*arguments: str) -> None:
    """In this process, which imports torch only once."""
    ended = CliRunner().invoke(app, [*arguments])
    assert ended.exit_code == 0, f"{arguments}\n{ended.output}\n{ended.stderr}"


@pytest.fixture
def story(appliance: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a model that is not there yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMAAS_URL", appliance.url)
    monkeypatch.setenv("LMAAS_HOME", str(tmp_path / "no home"))
    (tmp_path / "messages.csv").write_text(ROWS)
    yield "story"
    appliance.http.delete("/v1/models/story", params={"force": True})


@pytest.mark.timeout(300)
def test_from_a_csv_to_a_small_model_that_serves_with_the_figures_of_its_checkpoint(story: str) -> None:
    rows = ("messages.csv", "--held-out", "messages.csv", "--threads", "1", "--precision", "fp32")
    new = [
        part
        for name in ("vocabulary", "layers", "width", "context")
        for part in (f"--{name}", str(TINY[name]))
    ]
    lmaas(
        "train",
        "classifier",
        "--out",
        "teacher",
        "--epochs",
        "8",
        "--batch-size",
        "4",
        *new,
        "--train",
        *rows,
    )
    lmaas("distil", "teacher", "--out", "student", "--epochs", "8", "--batch-size", "4", "--data", *rows)
    lmaas("models", "push", story, "student")
    # By its name in the store, as the appliance has it; the smaller one is the next version.
    lmaas("prune", f"{story}/1", "--out", "small", "--neurons", "0.3", "--batch-size", "4", "--data", *rows)
    lmaas("export", "small", "-o", "artifact", "--name", story, "--variants", "fp32")
    lmaas("models", "push", story, "artifact", "--deploy", "--precision", "fp32")
    found: list[dict[str, Any]] = []
    for place in ("teacher", "student", "small", "artifact", story):
        report = Path(f"{len(found)}.json")
        fast = ("--resamples", "20", "--latency-requests", "2")
        lmaas("evaluate", place, "messages.csv", *fast, "--json", str(report))
        found += json.loads(report.read_text())["evaluations"]
    sizes = [each["target"]["size"] for each in found[:3]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    small, *others = found[2:]
    assert [each["target"]["place"] for each in others] == ["artifact", "deployment"]
    for other in others:
        assert other["figures"].keys() == small["figures"].keys()
        for name, figure in small["figures"].items():
            assert other["figures"][name]["value"] == pytest.approx(figure["value"], rel=1e-4, abs=1e-5), name
        assert other["confusion_matrix"] == small["confusion_matrix"]


def train(appliance: Appliance, **changed: Any) -> Any:
    sent = appliance.http.post(
        "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("messages.csv", ROWS.encode())}
    )
    parameters = {"model": "story", "kind": "classifier", "data": sent.json()["id"], **changed}
    return appliance.post("/v1/tasks", {"type": "train", "parameters": parameters})


@pytest.mark.timeout(300)
def test_a_task_trains_and_deploys(appliance: Appliance, story: str) -> None:
    task = train(appliance, options={**TINY, "epochs": 20}, held_out=0.25, deploy=True, precision="fp32")
    record = appliance.finished_task(task, 120)
    assert record["state"] == "done", record["error"]
    result = record["result"]
    assert (result["model"], result["kind"]) == (story, "classifier")
    version = appliance.http.get(f"/v1/models/{story}/versions/{result['version']}").json()
    assert version["state"] == "ready"
    assert result["steps"] == 100
    answer = appliance.post("/v1/classify", {"input": "Claim your free prize now", "model": story})
    assert answer["results"][0]["label"] == "spam"
    events = appliance.http.get(f"/v1/tasks/{task['id']}/events").text
    assert '"stage":"training"' in events.replace(" ", "")
    assert not list((appliance.home / "trainings").iterdir())


@pytest.mark.timeout(300)
def test_a_training_outlives_its_server_and_a_cancelled_one_leaves_nothing(
    converted_home: Path, tmp_path: Path
) -> None:
    home = home_with(converted_home, tmp_path / "home")
    trainings = home / "trainings"
    with running(home) as first:
        options = {**TINY, "layers": 1, "epochs": 40, "save_every": 5}
        task = train(first, options=options)
        first.wait_for(lambda: list(trainings.rglob("checkpoint-*")), "a checkpoint", 60)
        first.process.kill()
        first.process.wait()
    with running(home) as second:
        record = second.finished_task(task, 120)
        assert (record["state"], record["attempts"]) == ("done", 2), record["error"]
        assert second.http.get("/v1/models/story").json()["aliases"] == {"latest": 1}
        cancelled = train(second, options={**TINY, "epochs": 10_000}, model="other")
        second.wait_for(lambda: list(trainings.rglob("checkpoint-*")), "a checkpoint", 60)
        assert second.http.delete(f"/v1/tasks/{cancelled['id']}").json()["state"] == "cancelled"
        assert not [each for each in second.processes() if "train" in each.cmdline()]
        assert not list(trainings.iterdir())
        assert second.http.get("/v1/models/other").status_code == 404
