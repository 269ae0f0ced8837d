"""The state of a real appliance: private, and honest while another process holds its database."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

from tests.e2e.appliance import Appliance, home_with, running

ANSWER_SECONDS = 3.0
PARAMETERS = {"prompt": "Once upon a time", "max_tokens": 2}
TASK = {"type": "generate", "parameters": PARAMETERS}


def test_nobody_else_may_read_the_home(appliance: Appliance) -> None:
    appliance.post("/v1/tasks", TASK)
    paths = [appliance.home, *appliance.home.rglob("*")]
    assert {"lmaas.db", "lmaas.db-wal", "triton-0.log", "manifest.json"} <= {path.name for path in paths}
    for path in paths:
        mode = path.lstat().st_mode
        assert stat.S_ISLNK(mode) or not mode & 0o077, f"{path} has mode {mode:o}"


def test_a_locked_database_stops_only_what_needs_it(appliance: Appliance) -> None:
    begin = time.monotonic()
    calls = [("POST", "/v1/tasks", TASK), ("PATCH", "/v1/models/mini-lm", {"description": "new"})]
    with appliance.locked_database():
        for method, path, body in calls * 2:
            answer = appliance.http.request(method, path, json=body)
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json()["detail"].startswith("the database is locked by another process: ")
            assert answer.json()["detail"].endswith("/lmaas.db")
        assert time.monotonic() - begin < len(calls * 2) * ANSWER_SECONDS
        assert appliance.post("/v1/generate", PARAMETERS)["choices"]
        assert appliance.http.get("/v1/models").is_success
        ready = appliance.http.get("/health/ready")
        assert ready.is_success
        assert "is locked by another process" in ready.json()["warnings"][0]
    appliance.wait_for(lambda: not appliance.http.get("/health/ready").json()["warnings"], "it is well again")
    task = appliance.post("/v1/tasks", TASK)
    assert appliance.finished_task(task)["state"] == "done"
    lines = [line for line in appliance.log.read_text().splitlines() if "is locked by another" in line]
    assert len(lines) == 1, lines


def test_a_reported_outcome_outlives_a_kill(converted_home: Path, tmp_path: Path) -> None:
    home = home_with(converted_home, tmp_path / "home", "mini-lm")
    parameters = {**PARAMETERS, "max_tokens": 24, "temperature": 1, "ignore_eos": True}  # no two runs agree
    with running(home) as killed:
        tasks = [killed.post("/v1/tasks", {**TASK, "parameters": parameters}) for _ in range(40)]
        reported = finished(killed)
        while len(reported) < 4:
            reported = finished(killed)
        killed.process.kill()
        killed.process.wait()
    with running(home) as again:
        assert {again.finished_task(task)["state"] for task in tasks} == {"done"}
        assert reported.items() <= finished(again).items()


def finished(appliance: Appliance) -> dict[str, str]:
    """The result of each task that is done."""
    done = appliance.http.get("/v1/tasks", params={"state": "done", "limit": 100}).json()["data"]
    return {task["id"]: json.dumps(task["result"]) for task in done}
