"""A backup of a running appliance, brought into an empty home with its files in S3, and served from there."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from bench.chaos.services import S3Server
from tests.e2e.appliance import Appliance, running
from tests.e2e.pages import lmaas

PROMPT = {"model": "mini-lm", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}


def test_a_backup_of_a_running_appliance_serves_from_another_home(
    appliance: Appliance, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    text = appliance.post("/v1/generate", PROMPT)["choices"][0]["text"]
    file = tmp_path / "backup.tar"
    assert f"{file}: records and " in lmaas("backup", str(file), home=str(appliance.home))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "is not empty" in lmaas("restore", str(file), "--home", str(tmp_path), status=1)

    home, bucket = str(tmp_path / "restored"), s3_server.create_bucket()
    assert "`lmaas up` serves it" in lmaas("restore", str(file), home=home, blob_url=bucket)
    assert not list(Path(home, "blobs").glob("*/*"))
    checked = json.loads(lmaas("store", "fsck", "--json", home=home, blob_url=bucket))
    assert (checked["findings"], checked["num_unreferenced"]) == ([], 0)
    with running(Path(home), blob_url=bucket) as restored:
        names = {model["id"] for model in restored.http.get("/v1/models").json()["data"]}
        assert {"mini-lm", "mini-nli"} <= names
        assert restored.post("/v1/generate", PROMPT)["choices"][0]["text"] == text
        assert "importing" not in restored.log.read_text()
        entries = restored.http.get("/v1/audit").json()["data"]
        assert [(item["action"], item["target"]) for item in entries[:1]] == [("restore", "backup.tar")]
        assert "no unused files" in lmaas("store", "gc", "--grace-hours", "0", home=home, blob_url=bucket)


def test_unused_files_are_listed_and_deleted_while_it_serves(appliance: Appliance) -> None:
    home = str(appliance.home)
    orphan = os.urandom(3000)
    answer = appliance.http.put("/v1/blobs/sha256:" + "0" * 64, content=orphan)
    assert answer.status_code == 422
    digest = answer.json()["detail"].split("sha256:")[1].split(",")[0]
    assert appliance.http.put(f"/v1/blobs/sha256:{digest}", content=orphan).status_code == 201
    assert "no unused files" in lmaas("store", "gc", home=home)
    for flags, gone in ((["--dry-run"], False), ([], True)):
        listed = lmaas("store", "gc", "--grace-hours", "0", *flags, home=home)
        assert digest in listed
        assert ("would be deleted" in listed) is not gone
        found = appliance.http.head(f"/v1/blobs/sha256:{digest}").status_code
        assert found == (404 if gone else 200)
    assert "nothing is wrong" in lmaas("store", "fsck", "--quick", home=home)
