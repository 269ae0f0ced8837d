"""`kill -9` of Triton, or of a backend's stub: it heals by itself, and is honest meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.appliance import ROOT, Appliance, home_with, running
from tests.e2e.test_lifecycle import packed, upload

HEAL_SECONDS = 60.0
DRAIN_SECONDS = 2.0
PROBE_INTERVAL_SECONDS = 0.5
PROBE_TIMEOUT_SECONDS = 1.0
BODY = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def patient(converted_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """An appliance of its own, since these tests wound it."""
    home = tmp_path_factory.mktemp("healing") / "home"
    home_with(converted_home, home, "mini-lm", "mini-sentiment", "mini-nlu")
    with running(
        home,
        drain_seconds=str(DRAIN_SECONDS),
        probe_interval_seconds=str(PROBE_INTERVAL_SECONDS),
        probe_timeout_seconds=str(PROBE_TIMEOUT_SECONDS),
    ) as started:
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
def test_it_heals(patient: Appliance, victim: Callable[[Appliance], psutil.Process]) -> None:
    """A request in flight is sent again; another one waits, or is refused with the time to come back."""
    patient.wait_until_ready()
    before = patient.post("/v1/generate", BODY)
    pid = victim(patient).pid
    with ThreadPoolExecutor(1) as callers:
        os.kill(pid, signal.SIGKILL)
        asked = callers.submit(patient.http.post, "/v1/generate", json=BODY)
        patient.wait_for(lambda: not patient.ready(), "unready", HEAL_SECONDS)
        answer = asked.result(HEAL_SECONDS)
    if answer.status_code != 200:
        assert answer.status_code == 503, answer.text
        assert float(answer.headers["Retry-After"]) > 0
        assert answer.headers["content-type"] == "application/problem+json"
    patient.wait_for(patient.ready, "healed", HEAL_SECONDS)
    assert patient.post("/v1/generate", BODY)["choices"] == before["choices"]
    for name, body in [("classify", {"input": "good"}), ("nlu", {"input": "play a song"})]:
        assert patient.post(f"/v1/{name}", body)["results"]


def restarts(appliance: Appliance) -> int:
    (server,) = appliance.http.get("/v1/servers").json()["data"]
    count: int = server["restarts"]
    return count


# Of control groups version 1 and 2: where a group is made, the file that bounds it, and 0.3 of a core.
QUOTAS = (
    (Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us", "30000"),
    (Path("/sys/fs/cgroup"), "cpu.max", "30000 100000"),
)


@contextmanager
def slow(appliance: Appliance) -> Iterator[None]:
    """All of it shares 0.3 of a core. Skips where no quota can be set."""
    processes = [appliance.process.pid, *(process.pid for process in appliance.processes())]
    with ExitStack() as stack:
        for folder, limit, quota in QUOTAS:
            with suppress(OSError):
                group = folder / f"lmaas-{appliance.process.pid}"
                group.mkdir()
                stack.callback(group.rmdir)
                (group / limit).write_text(quota)
                break
        else:
            pytest.skip("no quota of processor time can be set here")
        stack.callback(move, group, folder)
        for pid in processes:
            (group / "cgroup.procs").write_text(str(pid))
        yield


def move(group: Path, to: Path) -> None:
    """All processes of one control group."""
    for pid in (group / "cgroup.procs").read_text().split():
        (to / "cgroup.procs").write_text(pid)


@pytest.mark.timeout(300)
def test_a_slow_machine_heals_without_a_needless_restart(patient: Appliance) -> None:
    """What takes some 5 s of processor time takes some 16 s then. No server is restarted for being slow."""
    patient.wait_until_ready()
    before = restarts(patient)
    with slow(patient):
        os.kill(triton(patient).pid, signal.SIGKILL)
        patient.wait_for(lambda: not patient.ready(), "unready")
        patient.wait_until_ready()
    assert restarts(patient) == before + 1


def test_a_facade_that_did_not_run_restarts_no_server(patient: Appliance) -> None:
    patient.wait_until_ready()
    before = restarts(patient), patient.log.read_text().count("is unhealthy")
    children = {child.pid for child in patient.processes()}
    patient.process.send_signal(signal.SIGSTOP)
    time.sleep(PROBE_TIMEOUT_SECONDS + 2 * PROBE_INTERVAL_SECONDS)
    patient.process.send_signal(signal.SIGCONT)
    assert patient.post("/v1/generate", BODY)["choices"]
    patient.wait_until_ready()
    assert (restarts(patient), patient.log.read_text().count("is unhealthy")) == before
    assert {child.pid for child in patient.processes()} == children


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


def versions(appliance: Appliance) -> dict[str, list[int]]:
    """Of the bundled models."""
    models = appliance.http.get("/v1/models").json()["data"]
    return {model["id"]: model["versions"] for model in models if model["id"].startswith("mini-")}


def test_ctrl_c_amid_work_ends_in_time_and_loses_no_task(patient: Appliance) -> None:
    patient.wait_until_ready()
    before = versions(patient)
    tasks = queue_tasks(patient, 16)
    children = patient.processes()
    assert any(child.name() == "tritonserver" for child in children)
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(last_event, patient.url)
        patient.wait_for(lambda: patient.engine_metric("lmaas_engine_running", "mini-lm") > 16, "streams run")
        tasks.append(upload(patient, "amid", packed(ROOT / "models" / "mini-nlu")).json()["task"])
        patient.stop()
        assert stream.result(timeout=30) == "error"
    assert patient.process.returncode == 0
    assert not [child for child in children if alive(child)]
    with running(patient.home) as again:
        assert versions(again) == before  # nothing was converted again
        assert again.post("/v1/generate", BODY)["choices"]
        assert {again.finished_task(task)["state"] for task in tasks} == {"done"}
        with again.locked_database():
            again.stop(signal.SIGTERM)
        assert again.process.returncode == 0
