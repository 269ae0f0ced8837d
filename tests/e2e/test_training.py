"""From labelled text to a small model that serves: as docs/training.md says, as one story, and as a task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.appliance import Appliance, home_with, running
from tests.e2e.pages import blocks, lmaas, paste_here, shown

ROWS = blocks("training", "csv")
TINY = {"vocabulary": 300, "layers": 2, "width": 64, "context": 64, "batch_size": 4, "precision": "fp32"}


@pytest.fixture
def story(appliance: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a model that is not there yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMAAS_URL", appliance.url)
    monkeypatch.setenv("LMAAS_HOME", str(tmp_path / "no home"))
    (tmp_path / "messages.csv").write_text(ROWS)
    yield "story"
    for model in ("story", "spam"):
        appliance.http.delete(f"/v1/models/{model}", params={"force": True})


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("story")
def test_pasted_the_document_trains_and_serves(appliance: Appliance) -> None:
    commands = shown("training", appliance.url)
    assert commands.startswith("lmaas train classifier")
    paste_here(commands, appliance.url)
    answer = appliance.post("/v1/classify", {"input": "Win a free prize now!", "model": "spam"})
    assert answer["results"][0]["label"] == "spam", json.dumps(answer)


@pytest.mark.timeout(300)
def test_from_a_csv_to_a_small_model_that_serves_with_the_figures_of_its_checkpoint(
    appliance: Appliance, story: str
) -> None:
    def run(*arguments: str) -> None:
        lmaas(*arguments, url=appliance.url)

    rows = ("messages.csv", "--held-out", "messages.csv", "--threads", "1", "--precision", "fp32")
    new = [
        part
        for name in ("vocabulary", "layers", "width", "context")
        for part in (f"--{name}", str(TINY[name]))
    ]
    short = ("--epochs", "8", "--batch-size", "4")
    run("train", "classifier", "--out", "teacher", *short, *new, "--train", *rows)
    run("distil", "teacher", "--out", "student", *short, "--data", *rows)
    run("models", "push", story, "student")
    # By its name in the store, as the appliance has it; the smaller one is the next version.
    run("prune", f"{story}/1", "--out", "small", "--neurons", "0.3", "--batch-size", "4", "--data", *rows)
    run("export", "small", "-o", "artifact", "--name", story, "--variants", "fp32")
    run("models", "push", story, "artifact", "--deploy", "--precision", "fp32")
    found: list[dict[str, Any]] = []
    for place in ("teacher", "student", "small", "artifact", story):
        report = Path(f"{len(found)}.json")
        fast = ("--resamples", "20", "--latency-requests", "2")
        run("evaluate", place, "messages.csv", *fast, "--json", str(report))
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
def test_a_task_trains_outlives_its_server_and_deploys_and_a_cancelled_one_leaves_nothing(
    converted_home: Path, tmp_path: Path
) -> None:
    home = home_with(converted_home, tmp_path / "home")
    trainings = home / "trainings"
    with running(home) as first:
        options = {**TINY, "epochs": 20, "save_every": 5}
        task = train(first, options=options, held_out=0.25, deploy=True, precision="fp32")
        first.wait_for(lambda: list(trainings.rglob("checkpoint-*")), "a checkpoint", 60)
        first.process.kill()
        first.process.wait()
    with running(home) as second:
        record = second.finished_task(task, 120)
        assert (record["state"], record["attempts"]) == ("done", 2), record["error"]
        result = record["result"]
        assert (result["model"], result["kind"], result["version"]) == ("story", "classifier", 1)
        assert result["steps"] == 100
        assert second.http.get("/v1/models/story").json()["aliases"] == {"latest": 1}
        assert second.http.get("/v1/models/story/versions/1").json()["state"] == "ready"
        answer = second.post("/v1/classify", {"input": "Claim your free prize now", "model": "story"})
        assert answer["results"][0]["label"] == "spam"
        events = second.http.get(f"/v1/tasks/{task['id']}/events").text
        assert '"stage":"training"' in events.replace(" ", "")
        assert not list(trainings.iterdir())

        cancelled = train(second, options={**TINY, "epochs": 10_000}, model="other")
        second.wait_for(lambda: list(trainings.rglob("checkpoint-*")), "a checkpoint", 60)
        assert second.http.delete(f"/v1/tasks/{cancelled['id']}").json()["state"] == "cancelled"
        assert not [each for each in second.processes() if "train" in each.cmdline()]
        assert not list(trainings.iterdir())
        assert second.http.get("/v1/models/other").status_code == 404
