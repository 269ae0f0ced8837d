"""The stack on this machine: found by its port, with the processes below it and the folder it serves from."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.stack.running import Stack, answered, process_name
from perf.deployed import Deployed
from perf.errors import LoadError, PlanError
from perf.http.ask import Ask, Task
from perf.http.load import Run
from perf.http.wire import Exchange, Failure
from runtime.contract import Kind

DEPLOYED = Deployed("dep-1", "mini-lm", 3, "int8", Kind.LM, Task.GENERATE)
REPOSITORY = "--model-repository=/home/live"
WAIT = "import sys; print(flush=True); sys.stdin.read()"


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number: int = listener.getsockname()[1]
        yield number


def test_found_by_the_port_it_listens_on(port: int) -> None:
    assert Stack.find(f"http://127.0.0.1:{port}", None).facade.pid == os.getpid()


def test_a_pid_is_believed() -> None:
    assert Stack.find("http://elsewhere:1", os.getppid()).facade.pid == os.getppid()


def test_its_requests_have_the_users_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMAAS_API_KEY", "lmaas_key")
    assert b"Authorization: Bearer lmaas_key" in Stack.find("http://a:1", os.getppid()).origin.post("/", b"")


def test_nobody_listens(port: int) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # taken, but nobody listens
        with pytest.raises(PlanError, match="nothing on this machine listens on port"):
            Stack.find(f"http://127.0.0.1:{bound.getsockname()[1]}", None)


def test_no_such_process() -> None:
    with pytest.raises(PlanError, match="--pid"):
        Stack.find("http://127.0.0.1:1", 2**22 + 1)  # above Linux's largest


@pytest.mark.parametrize("argument", ["--model-repository=/live/repository", "--other"])
def test_the_folder_is_where_its_triton_looks(argument: str) -> None:
    command = [sys.executable, "-c", WAIT, argument]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # until then it may have no command line yet
        stack = Stack("http://127.0.0.1:1", psutil.Process(child.pid))
        if argument == "--other":
            with pytest.raises(PlanError, match="no Triton"):
                stack.folder(DEPLOYED)
        else:
            assert stack.folder(DEPLOYED) == Path("/live/repository/mini-lm/3")
        child.communicate()


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/venv/bin/python", "/venv/bin/lmaas", "up"], "façade"),
        (["/venv/bin/python", "-I", "guard.py", "--", "/bin/tritonserver", REPOSITORY], "guard"),
        (["/bin/tritonserver", REPOSITORY], "Triton"),
        (["/b/triton_python_backend_stub", "/home/live/mini-lm/3/model.py", "shm"], "model mini-lm"),
    ],
)
def test_what_a_process_is_for(command: list[str], name: str) -> None:
    assert process_name(command) == name


def test_a_failed_request_is_no_figure() -> None:
    exchanges = [Exchange(0.5, failure=Failure.TIMEOUT), Exchange(0.6, status=200, pieces=[(0.7, b"{}")])]
    with pytest.raises(LoadError, match="2 of 2 requests failed: timeout, unreadable answer"):
        answered(Run(0.0, 1.0, exchanges, 0.0, 1.0), Ask(Task.CLASSIFY))
