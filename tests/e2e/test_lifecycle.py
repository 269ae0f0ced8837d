"""upload -> convert -> deploy -> use -> download -> undeploy -> delete, for a checkpoint of each kind."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.checkpoints import write_checkpoint
from tests.e2e.appliance import Appliance
from tests.export.checkpoints import save_classifier, save_lm, save_nlu

INFER_LABELS = ("contradiction", "entailment", "neutral")
# How a random checkpoint of each kind is written; what is asked of it.
KINDS: dict[str, tuple[Callable[[Path], object], str, dict[str, Any], str]] = {
    "lm": (save_lm, "/v1/generate", {"prompt": "The king", "max_tokens": 5, "temperature": 0}, "choices"),
    "classifier": (
        lambda folder: save_classifier(folder, id2label={0: "bad", 1: "fair", 2: "good"}),
        "/v1/classify", {"input": "What a splendid story!"}, "results",
    ),
    "nli": (
        lambda folder: save_classifier(folder, id2label=dict(enumerate(INFER_LABELS))),
        "/v1/infer", {"premise": "A dog runs.", "hypothesis": "An animal moves."}, "results",
    ),
    "nlu": (lambda folder: save_nlu(folder, echo=False), "/v1/nlu", {"input": "play some jazz"}, "results"),
}  # fmt: skip


def packed(folder: Path) -> bytes:
    """The folder as a .tar.gz; weights hardly compress."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=0) as archive:
        archive.add(folder, arcname=folder.name)
    return buffer.getvalue()


def upload(appliance: Appliance, name: str, archive: bytes, **fields: str) -> httpx.Response:
    files = {"file": (f"{name}.tar.gz", archive, "application/gzip")}
    return appliance.http.post("/v1/models", data={"name": name, **fields}, files=files)


def blob_bytes(appliance: Appliance) -> int:
    return sum(path.stat().st_size for path in (appliance.home / "blobs").rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(appliance: Appliance, kind: str, tmp_path: Path) -> None:
    name = f"round-{kind}"
    save, path, body, part = KINDS[kind]
    save(tmp_path / kind)
    accepted = upload(appliance, name, packed(tmp_path / kind))
    assert accepted.status_code == 202, accepted.text
    assert accepted.json()["version"] == 1
    assert appliance.finished_task(accepted.json()["task"])["state"] == "done"

    deployment = appliance.post("/v1/deployments", {"model": name, "precision": "fp32"})
    assert (deployment["precision"], deployment["state"]) == ("fp32", "ready")
    answer = appliance.post(path, {**body, "model": name})
    assert answer[part]
    assert (answer["model"], answer["precision"]) == (name, "fp32")

    archive = appliance.http.get(f"/v1/models/{name}/versions/1/archive")
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as files:
        manifest = files.extractfile(
            next(member for member in files if member.name.endswith("manifest.json"))
        )
        assert manifest is not None
        assert "fp32" in json.load(manifest)["variants"]
    again = appliance.http.get(
        f"/v1/models/{name}/versions/1/archive", headers={"If-None-Match": archive.headers["ETag"]}
    )
    assert again.status_code == 304

    assert appliance.http.delete(f"/v1/deployments/{deployment['id']}").is_success
    refused = appliance.http.post(path, json={**body, "model": name})
    assert refused.status_code == 404, refused.text
    assert appliance.http.delete(f"/v1/models/{name}").is_success
    assert appliance.http.get(f"/v1/models/{name}").status_code == 404


def test_the_same_archive_twice_keeps_one_copy(appliance: Appliance, tmp_path: Path) -> None:
    save_lm(tmp_path / "tiny", n_layer=1)
    archive = packed(tmp_path / "tiny")
    first = upload(appliance, "twice", archive).json()
    appliance.finished_task(first["task"])
    before = blob_bytes(appliance)
    second = upload(appliance, "twice", archive)
    assert second.is_success
    assert second.json()["version"] == first["version"]
    assert blob_bytes(appliance) == before
    elsewhere = upload(appliance, "thrice", archive).json()
    appliance.finished_task(elsewhere["task"])
    assert blob_bytes(appliance) - before < 100_000  # at most its own manifest
    for name in ("twice", "thrice"):
        assert appliance.http.delete(f"/v1/models/{name}").is_success


def test_a_variant_over_the_quality_budget_is_served_only_by_force(
    appliance: Appliance, tmp_path: Path
) -> None:
    """Random weights make nearly even odds, which rounding to eight bits decides anew."""
    write_checkpoint("gpt2", tmp_path / "rough", n_layer=1, n_embd=320, n_head=5)  # weights beside the graph
    accepted = upload(appliance, "rough", packed(tmp_path / "rough"), deploy="true", precision="int8").json()
    task = appliance.finished_task(accepted["task"])
    assert task["state"] == "failed"
    assert "int8 is over the quality budget: top1_agreement 0." in task["error"]["detail"]
    shown = appliance.http.get("/v1/models/rough/versions/1").json()
    assert shown["state"] == "ready"
    agreement = shown["variants"]["int8"]["quality"]["top1_agreement"]
    assert agreement < 0.97

    refused = appliance.http.post("/v1/deployments", json={"model": "rough", "precision": "int8"})
    assert refused.status_code == 409
    assert f"top1_agreement {agreement:.4g}, at least 0.97" in refused.json()["detail"]
    safe = appliance.post("/v1/deployments", {"model": "rough"})
    assert (safe["precision"], safe["precision_asked"]) == ("fp32", "auto")
    assert safe["note"].startswith("int8 is quicker, but over the quality budget: top1_agreement")
    assert appliance.http.delete(f"/v1/deployments/{safe['id']}").is_success
    forced = appliance.post("/v1/deployments", {"model": "rough", "precision": "int8", "force": True})
    assert (forced["precision"], forced["state"]) == ("int8", "ready")
    assert forced["note"].startswith("int8 is over the quality budget")
    answer = appliance.post("/v1/generate", {"model": "rough", "prompt": "The king", "max_tokens": 3})
    assert answer["precision"] == "int8"
    assert appliance.http.delete("/v1/models/rough", params={"force": True}).is_success


def test_deleting_everything_leaves_no_bytes(appliance: Appliance, tmp_path: Path) -> None:
    before = blob_bytes(appliance)
    save_nlu(tmp_path / "passing", echo=True)
    accepted = upload(appliance, "passing", packed(tmp_path / "passing")).json()
    appliance.finished_task(accepted["task"])
    appliance.http.delete("/v1/models/passing")
    assert blob_bytes(appliance) == before
