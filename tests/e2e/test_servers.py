"""An appliance with two model servers, as a user runs it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.appliance import Appliance, running

BODY = {"model": "mini-lm", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
HEAL_SECONDS = 60.0


@pytest.fixture(scope="module")
def pair(converted_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    home = Path(shutil.copytree(converted_home, tmp_path_factory.mktemp("servers") / "home"))
    with running(home, servers="2", probe_interval_seconds="1") as started:
        yield started


def servers(appliance: Appliance) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = appliance.http.get("/v1/servers").json()["data"]
    return found


def test_deployments_spread_and_replicas_are_bounded(pair: Appliance) -> None:
    assert [len(server["models"]) for server in servers(pair)] == [2, 2]  # the four bundled models
    deployments = pair.http.get("/v1/deployments").json()["data"]
    (record,) = [item for item in deployments if item["model"] == "mini-lm"]
    path = f"/v1/deployments/{record['id']}"
    refused = pair.http.patch(path, json={"replicas": 3})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "replicas")
    assert "this cluster has 2 servers: 1 to 2 are possible" in refused.text
    grown = pair.http.patch(path, json={"replicas": 2}).json()
    assert (grown["replicas"], grown["servers"]) == (2, {"triton-0": "ready", "triton-1": "ready"})


def test_one_server_heals_while_the_other_answers(pair: Appliance) -> None:
    """Once the appliance knows that a replica is away, no request goes there."""
    (record,) = [
        item for item in pair.http.get("/v1/deployments").json()["data"] if item["model"] == "mini-lm"
    ]
    assert pair.http.patch(f"/v1/deployments/{record['id']}", json={"replicas": 2}).is_success
    before = pair.post("/v1/generate", BODY)
    dead = servers(pair)[0]
    os.kill(dead["pid"], signal.SIGKILL)
    begin, warned = time.monotonic(), False
    while True:
        ready = pair.http.get("/health/ready").json()
        away = [text for text in ready["warnings"] if text.startswith("mini-lm/1 on triton-0")]
        warned = warned or bool(away)
        if warned:  # it is known to be away: all requests go to the other one
            assert pair.post("/v1/generate", BODY)["choices"] == before["choices"]
        assert not [reason for reason in ready["reasons"] if "mini-lm" in reason]
        if warned and not ready["warnings"]:
            break
        assert time.monotonic() - begin < HEAL_SECONDS, pair.log.read_text()[-4000:]
        time.sleep(0.05)
    assert [server["restarts"] for server in servers(pair)] == [1, 0]
