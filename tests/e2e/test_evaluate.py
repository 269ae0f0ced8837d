"""`lmaas evaluate` and `lmaas calibrate` against a running appliance: the same figures as offline."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from export.pipeline import export_checkpoint
from runtime.contract import Variant
from tests.e2e.appliance import ROOT, Appliance
from tests.e2e.pages import lmaas
from tests.export import checkpoints
from tests.train.evaluation.conftest import TEXTS

LABELS = ("entailment", "neutral", "contradiction")
SAVE: dict[str, Callable[[Path], object]] = {
    "lm": checkpoints.save_lm,
    "judge": lambda folder: checkpoints.save_classifier(folder, id2label=dict(enumerate(LABELS))),
    "nlu": lambda folder: checkpoints.save_nlu(folder, echo=True),
}
FAST = ("--resamples", "20", "--latency-requests", "5")


@dataclass(frozen=True)
class Deployed:
    """One tiny model as a checkpoint, as its fp32 artifact and as a deployment in fp32, with rows for it."""

    name: str
    checkpoint: Path
    artifact: Path
    rows: Path
    url: str

    def evaluations(self, *options: str) -> list[dict[str, Any]]:
        """Of all three places."""
        report = self.rows.with_suffix(".report.json")
        found = []
        for place in (str(self.checkpoint), str(self.artifact), self.name):
            lmaas("evaluate", place, str(self.rows), *FAST, "--json", str(report), *options, url=self.url)
            found += json.loads(report.read_text())["evaluations"]
        assert [each["target"]["place"] for each in found] == ["checkpoint", "artifact", "deployment"]
        return found


def write_rows(kind: str, file: Path) -> Path:
    if kind == "lm":
        path = file.with_suffix(".txt")
        path.write_text("\n\n".join([*TEXTS, " ".join(TEXTS * 8)]))
        return path
    path = file.with_suffix(".jsonl")
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(TEXTS * 4):
        if kind == "judge":
            rows.append({"text": text, "text_pair": "it rains", "label": LABELS[number % 3]})
        else:
            words = text.split()
            tags = ["B-artist", *["O"] * (len(words) - 1)]
            rows.append({"tokens": words, "tags": tags, "intent": ("play", "book", "rate")[number % 3]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


COMMANDS = [
    line.split("  #")[0]
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "evaluation.md").read_text(), re.DOTALL)
    for line in block.splitlines()
]


def test_the_commands_of_the_documentation_work(
    appliance: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, on a tiny classifier."""
    for name in ("my-checkpoint", "teacher", "student"):
        checkpoints.save_classifier(tmp_path / name, id2label={0: "bad", 1: "fair", 2: "good"})
    artifact, variants = tmp_path / "my-artifact", [Variant.FP32, Variant.INT8]
    export_checkpoint(tmp_path / "my-checkpoint", artifact, name="my-model", variants=variants)
    labels = ("bad", "fair", "good")
    rows = "".join(f"{text},{labels[number % 3]}\n" for number, text in enumerate(TEXTS * 4))
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}")
    monkeypatch.chdir(tmp_path)
    lmaas("models", "push", "my-model", "my-artifact", "--deploy", url=appliance.url)
    try:
        for command in COMMANDS:
            words = shlex.split(command.replace("localhost:8080", appliance.url))
            if words[0] == "curl":
                ended = subprocess.run([*words, "--fail-with-body", "-s"], capture_output=True, timeout=60)
                assert ended.returncode == 0, ended.stdout
                continue
            if "oos" in words:
                (tmp_path / "dev.csv").write_text(f"text,label\n{rows}something else,oos\n")
            if "0.95" in words:  # more than a random model can do
                words[words.index("0.95")] = "0.3"
            lmaas(*words[1:], *(FAST if words[1] == "evaluate" else ()), url=appliance.url)
    finally:
        lmaas("models", "rm", "my-model", "--force", url=appliance.url)
    assert {path.name for path in tmp_path.glob("figures.*")} == {"figures.json", "figures.md"}
    assert len(list((tmp_path / "pictures").iterdir())) == 4


@pytest.fixture(scope="module", params=SAVE)
def deployed(
    request: pytest.FixtureRequest, appliance: Appliance, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    kind = request.param
    root, name = tmp_path_factory.mktemp(kind), f"tiny-{kind}"
    SAVE[kind](root / "checkpoint")
    export_checkpoint(root / "checkpoint", root / "artifact", name=name, variants=[Variant.FP32])
    push = ("models", "push", name, str(root / "artifact"), "--deploy", "--precision", "fp32")
    lmaas(*push, url=appliance.url)
    rows = write_rows(kind, root / "rows")
    yield Deployed(name, root / "checkpoint", root / "artifact", rows, appliance.url)
    lmaas("models", "rm", name, "--force", url=appliance.url)


def test_a_deployment_has_the_figures_of_its_checkpoint(deployed: Deployed) -> None:
    first, *others = deployed.evaluations(*(("--window", "33") if deployed.name == "tiny-lm" else ()))
    for other in others:
        assert other["figures"].keys() == first["figures"].keys()
        for name, figure in first["figures"].items():
            assert other["figures"][name]["value"] == pytest.approx(figure["value"], rel=1e-4, abs=1e-5), name
        assert other["counts"] == first["counts"]
        assert other["confusion_matrix"] == first["confusion_matrix"]
        assert other["slots"] == first["slots"]
    speed = others[-1]["speed"]
    assert speed["latency"]["count"] == 5
    # The appliance is on this machine, where its processes can be looked at; their clocks have coarse ticks.
    assert speed["memory"] > 0
    assert speed["cpu_cores"] is not None


def test_calibrated_answers_of_a_deployment(deployed: Deployed, appliance: Appliance) -> None:
    if deployed.name == "tiny-lm":
        refused = lmaas("calibrate", deployed.name, str(deployed.rows), url=deployed.url, status=1)
        assert "language model" in refused
        return
    found = json.loads(
        lmaas("calibrate", deployed.name, str(deployed.rows), "--target-accuracy", "0.3", "--json",
              url=deployed.url)
    )  # fmt: skip
    assert "calibrated: temperature" in lmaas("models", "show", deployed.name, url=deployed.url)
    body: dict[str, Any] = {"model": deployed.name, "input": TEXTS[0]}
    path = "/v1/nlu"
    if deployed.name == "tiny-judge":
        body, path = {"model": deployed.name, "premise": TEXTS[0], "hypothesis": "it rains"}, "/v1/infer"

    def highest(**more: bool) -> tuple[float, bool]:
        (result,) = appliance.post(path, {**body, **more})["results"]
        return (result.get("scores") or result["intents"])[0]["score"], result["abstained"]

    corrected, abstained = highest()
    raw, _ = highest(raw_scores=True)
    assert abstained == (corrected < found["threshold"])
    assert (corrected > raw) == (found["temperature"] < 1)
    report = deployed.rows.with_suffix(".calibrated.json")
    lmaas("evaluate", deployed.name, str(deployed.rows), *FAST, "--json", str(report), url=deployed.url)
    (evaluation,) = json.loads(report.read_text())["evaluations"]
    figures = {name: figure["value"] for name, figure in evaluation["figures"].items()}
    for name in ("log loss", "ECE", "coverage"):
        assert figures[name] == pytest.approx(found["figures"][name], abs=1e-4)
    lmaas("models", "uncalibrate", deployed.name, url=deployed.url)
    assert highest() == (raw, False)
