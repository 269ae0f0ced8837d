"""A guarded command ends with its parent, and with it whatever it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from api.back.guard import guarded

SLEEPERS = """
import subprocess, sys
with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]):
    print("up", flush=True)
"""
ENDING = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
print("up", flush=True)
signal.pause()
"""
GREEDY = "import os; print(os.nice(0), flush=True); bytearray(300 * 1024**2)"


def start(*command: str, **limits: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        guarded([sys.executable, "-c", *command], **limits),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("command", "status"),
    [("raise SystemExit(7)", 7), ("pass", 0), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_the_status_is_that_of_the_command(command: str, status: int) -> None:
    with start(command) as guard:
        assert guard.wait(10) == status


def test_the_end_of_the_pipe_ends_the_whole_group() -> None:
    with start(SLEEPERS) as guard:
        assert guard.stdout is not None
        assert guard.stdin is not None
        assert guard.stdout.readline() == b"up\n"
        family = psutil.Process(guard.pid).children(recursive=True)
        guard.stdin.close()
        assert guard.wait(10) == -signal.SIGKILL
        assert psutil.wait_procs(family, timeout=5)[1] == []


def test_a_request_to_end_reaches_the_command() -> None:
    with start(ENDING) as guard:
        assert guard.stdout is not None
        assert guard.stdout.readline() == b"up\n"
        guard.terminate()
        assert guard.wait(10) == 3


def test_memory_and_priority_are_bounded() -> None:
    with start(GREEDY, nice=5, data_bytes=200 * 1024**2) as guard:
        assert guard.stdout is not None
        assert guard.stderr is not None
        assert int(guard.stdout.readline()) == os.nice(0) + 5
        assert b"MemoryError" in guard.stderr.read()
        assert guard.wait(10) == 1
