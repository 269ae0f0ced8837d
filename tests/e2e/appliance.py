"""A real appliance as a user starts it: the `lmaas up` process with its Triton, reached over HTTP."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from kernels.library import SWITCH

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.1
MAX_UNPACKED_BYTES = 96 * 2**20


# Most networks that have one name it so, without `no_proxy`; a request to it gets no answer.
PROXY = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


def foreign_variables() -> dict[str, str]:
    """The environment without this project's own variables, with a proxy that refuses."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == SWITCH or (not name.startswith("LMAAS_") and name.lower() != "no_proxy")
    }
    return kept | PROXY


_given: set[int] = set()  # ports; a test that asked for one may not listen yet


def free_port(count: int = 1) -> int:
    """The first of `count` ports in a row that are free, and that were not given to another test.

    The system does not choose them by itself, so that no connection of another test takes one.
    """
    for first in random.SystemRandom().sample(range(20_000, 32_000), 100):
        ports = range(first, first + count)
        if not _given.isdisjoint(ports):
            continue
        with ExitStack() as probes, suppress(OSError):
            for port in ports:
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            _given.update(ports)
            return first
    raise AssertionError("no port is free")


class Appliance:
    """One running `lmaas up`; `http` is a client of it."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, home: Path, log: Path) -> None:
        self.process = process
        self.url = url
        self.home = home
        self.log = log
        self.http = httpx.Client(base_url=url, timeout=60.0, trust_env=False)
        self.ready_after = 0.0  # seconds from its start

    def ready(self) -> bool:
        """What /health/ready says; False too while nothing answers."""
        try:
            return self.http.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def wait_until_ready(self, seconds: float = START_SECONDS) -> float:
        """Wait for readiness; returns the seconds it took."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            if self.ready():
                return time.monotonic() - begin
            if self.process.poll() is not None:
                raise AssertionError(
                    f"lmaas up ended with {self.process.returncode}:\n{self.log.read_text()}"
                )
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"not ready within {seconds} s:\n{self.log.read_text()}")

    def wait_for(self, condition: Any, what: str, seconds: float = 30.0) -> Any:
        """Poll `condition` until it gives something true; returns that."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"{what}: not within {seconds} s")

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST JSON and return the parsed answer; an error status fails the test with its text."""
        response = self.http.post(path, json=body)
        assert response.is_success, response.text
        return response.json()

    def finished_task(self, task: Mapping[str, Any], seconds: float = 60.0) -> dict[str, Any]:
        def outcome() -> dict[str, Any] | None:
            record: dict[str, Any] = self.http.get(f"/v1/tasks/{task['id']}").json()
            return record if record["state"] not in ("queued", "running") else None

        record: dict[str, Any] = self.wait_for(outcome, f"task {task['id']}", seconds)
        return record

    @contextmanager
    def locked_database(self) -> Iterator[None]:
        """Another process holds a write transaction."""
        other = sqlite3.connect(self.home / "lmaas.db", isolation_level=None)
        try:
            other.execute("BEGIN EXCLUSIVE")
            yield
        finally:
            other.close()

    def processes(self) -> list[psutil.Process]:
        """Every process below `lmaas up`."""
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return children

    def engine_metric(self, name: str, model: str, **labels: str) -> float:
        """The value of an engine metric of one model."""
        wanted = [f'{label}="{value}"' for label, value in {"model": model, **labels}.items()]
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(f"{name}{{") and all(label in line for label in wanted):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"/metrics has no {name} with {wanted}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> float:
        """Ctrl-C; returns the seconds until the process had ended, which must be within STOP_SECONDS."""
        self.http.close()
        begin = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(STOP_SECONDS)
        return time.monotonic() - begin


def home_with(converted_home: Path, home: Path, *models: str) -> Path:
    """A copy that deploys these of the four bundled models: fewer processes to start. Returns `home`."""
    shutil.copytree(converted_home, home)
    with closing(sqlite3.connect(home / "lmaas.db")) as database, database:
        others = f"model NOT IN ({', '.join('?' * len(models))})"
        database.execute(f"DELETE FROM deployments WHERE {others}", models)
    return home


@contextmanager
def running(
    home: Path, python: Path | None = None, key: str | None = None, **settings: str
) -> Iterator[Appliance]:
    """Start `lmaas up` with `settings` as LMAAS_ variables; stopped, and killed if need be, at the end.

    `python` is of another environment: then nothing of this project's folder is there. `key` is an API key.
    """
    port = free_port(1 + int(settings.get("facades", 0)))
    log = home.parent / f"{home.name}.log"
    environment = foreign_variables() | {"LMAAS_HOME": str(home), "LMAAS_PORT": str(port)}
    environment |= {f"LMAAS_{name.upper()}": value for name, value in settings.items()}
    if python is not None:
        environment.pop("PYTHONPATH", None)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(python or sys.executable), "-m", "lmaas", "up"],
            cwd=home.parent,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    appliance = Appliance(process, f"http://127.0.0.1:{port}", home, log)
    if key is not None:
        appliance.http.headers["Authorization"] = f"Bearer {key}"
    try:
        appliance.ready_after = appliance.wait_until_ready()
        yield appliance
    finally:
        try:
            appliance.stop()
        finally:
            if process.poll() is None:
                for child in appliance.processes():
                    child.kill()
                process.kill()
                process.wait()
