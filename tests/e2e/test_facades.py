"""Two façades behind one port (`lmaas up --facades 2`), each with its Triton, over a real PostgreSQL."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.chaos.services import Postgres
from tests.e2e.appliance import Appliance, running
from tests.export.checkpoints import save_lm

BODY = {"prompt": "the little cat", "max_tokens": 4, "temperature": 0}
GONE_SECONDS = 30.0


def facade(appliance: Appliance, number: int) -> psutil.Process:
    """The process of one façade, without its guard."""
    home = str(appliance.home / f"facade-{number}")
    for process in appliance.processes():
        with suppress(psutil.Error):
            if process.cmdline()[2:3] == ["up"] and process.environ()["LMAAS_HOME"] == home:
                return process
    raise AssertionError(f"no process of {home} runs")


def is_ready(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/health/ready", trust_env=False).status_code == 200
    return False


def answer(url: str) -> Any:
    response = httpx.post(f"{url}/v1/generate", json=BODY, trust_env=False, timeout=30)
    assert response.status_code == 200, response.text
    return response.json()["choices"]


def test_a_task_and_the_callers_outlive_a_facade_that_is_killed(postgres: Postgres, tmp_path: Path) -> None:
    save_lm(tmp_path / "models" / "tiny")
    models, database = str(tmp_path / "models"), postgres.create_database()
    with running(
        tmp_path / "home", facades="2", variants="fp32", models=models, database_url=database
    ) as pair:
        host, _, port = pair.url.rpartition(":")
        own = [f"{host}:{int(port) + number}" for number in (1, 2)]
        for url in own:
            pair.wait_for(lambda url=url: is_ready(url), url)
        (text,) = {str(answer(url)) for url in (pair.url, *own)}

        first = facade(pair, 1)
        triton = next(child for child in first.children(recursive=True) if child.name() == "tritonserver")
        triton.suspend()  # so that the task cannot be done before its façade is killed
        sent = {"type": "generate", "parameters": BODY}
        task = httpx.post(f"{own[0]}/v1/tasks", json=sent, trust_env=False).json()
        first.kill()

        def outcome() -> Any:
            """By a new connection each time, of which none may fail: one of the two always answers."""
            found = httpx.get(f"{pair.url}/v1/tasks/{task['id']}", trust_env=False)
            assert found.status_code == 200, found.text
            return found.json()["state"] not in ("queued", "running") and found.json()

        done = pair.wait_for(outcome, "the task")
        assert (done["state"], str(done["result"]["choices"])) == ("done", text)
        pair.wait_for(lambda: is_ready(own[0]), "the façade that was killed")
        assert facade(pair, 1).pid != first.pid
        assert {str(answer(url)) for url in (pair.url, *own)} == {text}

        family = pair.processes()
        pair.stop(signal.SIGTERM)
        assert pair.process.returncode == 0
        assert psutil.wait_procs(family, timeout=GONE_SECONDS)[1] == []
