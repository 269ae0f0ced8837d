"""A guarded command ends with its parent, and with it whatever it started."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from api.back.guard import HIDDEN, SECRET, guarded

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
        assert psutil.wait_procs(family, timeout=30)[1] == []


def test_the_command_inherits_what_the_guard_did() -> None:
    reader, writer = os.pipe()
    command = guarded([sys.executable, "-c", f"import os; os.write({writer}, b'here')"])
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[writer]) as guard:
        os.close(writer)
        assert os.read(reader, 10) == b"here"
        assert guard.wait(10) == 0
    os.close(reader)


def test_what_the_command_closes_the_guard_does_not_keep_open() -> None:
    """As the port of several façades, which must refuse connections once all of them drain."""
    reader, writer = os.pipe()
    closing = f"import os, signal; os.close({writer}); signal.pause()"
    command = guarded([sys.executable, "-c", closing])
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[writer], start_new_session=True) as guard:
        os.close(writer)
        assert select.select([reader], [], [], 10)[0] == [reader]
        assert os.read(reader, 1) == b""
        assert guard.poll() is None
        guard.terminate()
        assert guard.wait(10) == 128 + signal.SIGTERM
    os.close(reader)


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


TELLING = """
import signal, sys
print(*sys.argv[1:], sep="\\n", flush=True)
signal.pause()
"""
WORDS = ("plain", f"--key={HIDDEN}", f"twice:{HIDDEN},{HIDDEN}", "last")


def test_no_other_user_can_read_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, "s3cr3t")
    with start(TELLING, *WORDS) as guard:
        assert guard.stdout is not None
        got = [guard.stdout.readline().decode() for _ in WORDS]
        family = [psutil.Process(guard.pid), *psutil.Process(guard.pid).children(recursive=True)]
        seen = [word for process in family for word in process.cmdline()]
        guard.terminate()
    assert got == ["plain\n", "--key=s3cr3t\n", "twice:s3cr3t,s3cr3t\n", "last\n"]
    assert "last" in seen
    assert not [word for word in seen if "s3cr3t" in word]


REFUSING = """
import sys
from api.back import guard
def refuse(request, process):
    raise OSError(1, "may not trace")
guard._ptrace = refuse
command = [sys.executable, "-c", "import sys; print(sys.argv[1])", f"--key={guard.HIDDEN}"]
with guard._start(command):
    pass
"""


def test_who_may_not_trace_starts_it_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, "s3cr3t")
    ended = subprocess.run([sys.executable, "-c", REFUSING], capture_output=True, text=True, timeout=30)
    assert ended.stdout == "--key=s3cr3t\n"
    assert ended.stderr.startswith("guard: other users of this machine can read the key")


def test_a_script_gets_its_arguments_in_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its interpreter stands before them, so that they are not where they were given."""
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\necho "$@"\n')
    script.chmod(0o700)
    monkeypatch.setenv(SECRET, "s3cr3t")
    command = guarded([str(script), "first", f"--key={HIDDEN}"])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as guard:
        assert guard.wait(10) == 0
        assert guard.stdout is not None
        assert guard.stdout.read() == b"first --key=s3cr3t\n"


def test_a_command_without_its_secret_does_not_start() -> None:
    with start("print('started')", HIDDEN) as guard:
        assert guard.wait(10) == 1
        assert guard.stdout is not None
        assert guard.stdout.read() == b""
