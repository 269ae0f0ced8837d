"""`kill -9` of Triton, or of a backend's stub: healed within 10 s, and honest meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.appliance import ROOT, Appliance, running
from tests.e2e.test_lifecycle import packed, upload

HEAL_SECONDS = 10.0
SECOND_START_SECONDS = 8.0
DRAIN_SECONDS = 2.0
BODY = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def patient(converted_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """An appliance of its own, since these tests wound it."""
    home = Path(shutil.copytree(converted_home, tmp_path_factory.mktemp("healing") / "home"))
    with running(home, drain_seconds=str(DRAIN_SECONDS)) as started:
        yield started


def triton(appliance: Appliance) -> psutil.Process:
    return next(process for process in appliance.processes() if process.name() == "tritonserver")


def stub_of_mini_lm(appliance: Appliance) -> psutil.Process:
    for process in appliance.processes():
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if process.name().startswith("triton_python") and any(
                "mini-lm" in part for part in process.cmdline()
            ):
                return process
    raise AssertionError("no process runs mini-lm")


@pytest.mark.parametrize("victim", [triton, stub_of_mini_lm])
def test_heals_within_ten_seconds(patient: Appliance, victim: Callable[[Appliance], psutil.Process]) -> None:
    patient.wait_until_ready()
    before = patient.post("/v1/generate", BODY)
    os.kill(victim(patient).pid, signal.SIGKILL)
    begin = time.monotonic()
    refusals = 0
    said_unready = False
    while True:
        answer = patient.http.post("/v1/generate", json=BODY)
        said_unready = said_unready or not patient.ready()
        if answer.status_code == 200 and said_unready and patient.ready():
            break
        if answer.status_code != 200:
            refusals += 1
            assert answer.status_code == 503, answer.text
            assert float(answer.headers["Retry-After"]) > 0
            assert answer.headers["content-type"] == "application/problem+json"
        assert time.monotonic() - begin < HEAL_SECONDS, f"not healed: {patient.log.read_text()[-4000:]}"
        time.sleep(0.05)
    assert time.monotonic() - begin < HEAL_SECONDS
    assert refusals > 0
    assert answer.json()["choices"] == before["choices"]
    for name, body in [("classify", {"input": "good"}), ("nlu", {"input": "play a song"})]:
        assert patient.post(f"/v1/{name}", body)["results"]


def queue_tasks(appliance: Appliance, count: int) -> list[dict[str, Any]]:
    tasks = []
    for seed in range(count):
        parameters = {**BODY, "max_tokens": 200, "ignore_eos": True, "temperature": 1, "seed": seed}
        tasks.append(appliance.post("/v1/tasks", {"type": "generate", "parameters": parameters}))
    return tasks


def test_queued_tasks_outlive_the_process_of_their_model(patient: Appliance) -> None:
    patient.wait_until_ready()
    tasks = queue_tasks(patient, 8)
    os.kill(stub_of_mini_lm(patient).pid, signal.SIGKILL)
    assert {patient.finished_task(task)["state"] for task in tasks} == {"done"}


def alive(process: psutil.Process) -> bool:
    """Whether it runs; one that ended and waits for its parent to notice does not."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def last_event(url: str) -> str:
    """Stream more than a drain has time for; returns the name of the last event."""
    name = "message"
    body = {
        **BODY,
        "prompt": ["Once", "There"] * 8,
        "n": 16,
        "max_tokens": 480,
        "ignore_eos": True,
        "stream": True,
    }
    with httpx.stream("POST", f"{url}/v1/generate", json=body, timeout=60) as response:
        for line in response.iter_lines():
            name = line.removeprefix("event:").strip() if line.startswith("event:") else name
    return name


def test_ctrl_c_amid_work_ends_in_time_and_loses_no_task(patient: Appliance) -> None:
    patient.wait_until_ready()
    tasks = queue_tasks(patient, 16)
    children = patient.processes()
    assert any(child.name() == "tritonserver" for child in children)
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(last_event, patient.url)
        patient.wait_for(lambda: patient.engine_metric("lmaas_engine_running", "mini-lm") > 16, "streams run")
        tasks.append(upload(patient, "amid", packed(ROOT / "models" / "mini-nlu")).json()["task"])
        patient.stop()
        assert stream.result(timeout=5) == "error"
    assert patient.process.returncode in (0, -signal.SIGINT, 130)
    assert not [child for child in children if alive(child)]
    with running(patient.home) as again:
        assert again.ready_after < SECOND_START_SECONDS
        assert again.post("/v1/generate", BODY)["choices"]
        assert {again.finished_task(task)["state"] for task in tasks} == {"done"}
