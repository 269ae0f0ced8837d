"""The `lmaas` command against a running appliance."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.appliance import ROOT, Appliance, foreign_variables
from tests.e2e.pages import lmaas as lmaas_here


def lmaas(*arguments: str, url: str | None = None, status: int = 0) -> str:
    """Run `lmaas`; returns what it printed (standard error where it was to fail)."""
    environment = {**foreign_variables(), "COLUMNS": "200"} | ({"LMAAS_URL": url} if url else {})
    ended = subprocess.run(
        [sys.executable, "-m", "lmaas", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stderr if status else ended.stdout


def test_generate_streams_prompt_and_text(appliance: Appliance) -> None:
    body = {"prompt": "The king", "max_tokens": 8, "temperature": 0}
    text = appliance.post("/v1/generate", body)["choices"][0]["text"]
    printed = lmaas("generate", "The king", "--max-tokens", "8", "--temperature", "0", url=appliance.url)
    assert printed == f"The king{text}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["classify", "a wonderful film"], "positive"),
        (["infer", "A man sleeps.", "A man is awake."], "contradiction"),
        (["nlu", "book a table in Boston"], "BookRestaurant"),
        (["models", "ls"], "mini-sentiment"),
        (["models", "show", "mini-lm"], "int8"),
        (["deployments"], "mini-nlu"),
        (["servers"], "ready"),
        (["tasks"], "generate"),
        (["config"], "LMAAS_PORT"),
        (["version"], "0.1.0"),
        (["--help"], "generate"),
    ],
)
def test_tells_people(appliance: Appliance, arguments: list[str], expected: str) -> None:
    assert expected in lmaas(*arguments, url=appliance.url)


def test_tells_scripts(appliance: Appliance) -> None:
    models = json.loads(lmaas("models", "ls", "--json", url=appliance.url))
    assert "mini-lm" in {model["id"] for model in models["data"]}


def test_push_deploy_pull_remove(appliance: Appliance, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ROOT / "models" / "mini-nli", tmp_path / "folder"))
    (folder / "training_args.bin").write_bytes(b"\x80\x02}q\x00.")
    pushed = lmaas_here("models", "push", "CLI/NLI", str(folder), "--deploy", url=appliance.url)
    assert "CLI/NLI is served as cli-nli: " in pushed
    assert "note: skipped, because no export reads them: training_args.bin" in pushed
    assert "cli-nli version 1 is ready and serves in int8" in pushed
    archive = tmp_path / "nli.tar"
    lmaas_here("models", "pull", "cli-nli", "-o", str(archive), url=appliance.url)
    assert archive.stat().st_size > 1_000_000
    copied = lmaas_here("models", "push", "cli-copy", str(archive), url=appliance.url)
    assert "cli-copy version 1 is ready" in copied
    lmaas_here("models", "rm", "cli-copy", url=appliance.url)
    lmaas_here("undeploy", "cli-nli", url=appliance.url)
    lmaas_here("deploy", "cli-nli", "--precision", "fp32", url=appliance.url)
    assert "is deployed" in lmaas_here("models", "rm", "cli-nli", url=appliance.url, status=1)
    lmaas_here("models", "rm", "cli-nli", "--force", url=appliance.url)
    assert "cli-nli" in lmaas_here("models", "show", "cli-nli", url=appliance.url, status=1)
    history = json.loads(lmaas_here("models", "history", "cli-nli", "--json", url=appliance.url))["data"]
    done = [(entry["action"], entry["precision"]) for entry in history]
    served = [("undeploy", "fp32"), ("deploy", "fp32"), ("undeploy", "int8"), ("deploy", "int8")]
    assert done == [("delete", None), *served]


def test_export_needs_no_server(tmp_path: Path) -> None:
    output = tmp_path / "nli"
    table = lmaas("export", str(ROOT / "models" / "mini-nli"), "-o", str(output), "--variants", "fp32,int8")
    assert "labels" in table.split("int8")[1]
    assert (output / "int8" / "model.onnx").is_file()
    assert "All 3 files are those of the manifest." in lmaas("inspect", str(output))


def test_inspect_needs_no_server() -> None:
    assert "LMaaS can export it" in lmaas("inspect", str(ROOT / "models" / "mini-lm"))


def test_a_server_that_is_not_there() -> None:
    message = lmaas("servers", "--url", "http://127.0.0.1:9", status=1)
    assert "lmaas up" in message
    assert message.count("\n") == 1


def test_an_unknown_setting_stops_the_start() -> None:
    environment = {**foreign_variables(), "LMAAS_PROT": "8080"}
    ended = subprocess.run(
        [sys.executable, "-m", "lmaas", "up"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode != 0
    assert "LMAAS_PROT" in ended.stderr
    assert ended.stderr.count("\n") == 1
