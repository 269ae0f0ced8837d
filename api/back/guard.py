"""Runs a command that ends with its parent, whatever it started in turn.

A guard leads a process group, of which the command and its children become members. Its standard input is a
pipe that the parent holds open: when the parent dies, however it dies, the pipe ends and the guard kills the
group. (The kernel's parent-death signal reaches the command alone; Triton's stubs can outlive their server.)

It also hides a secret that the command takes only as an argument. Every user of the machine can read the
arguments of a process (`/proc/PID/cmdline`), but only its own user its environment. So the real argument is
passed as an environment variable, and `argv` is made to point to it before the command's first instruction.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading

SECRET = "LMAAS_SECRET"  # the environment variable that brings it to the guard
HIDDEN = f"{{{SECRET}}}"  # stands in an argument for it
PTRACE_TRACEME = 0
PTRACE_DETACH = 17
# The field of /proc/PID/stat (proc(5)) with the address of argc, argv and envp of a new process.
START_OF_STACK = 28
WORD = 8  # bytes of a pointer
LONGEST_NAME = len(SECRET) + 12


def guarded(command: list[str], *, nice: int = 0, data_bytes: int | None = None) -> list[str]:
    """The command line that runs `command` under a guard; start it in its own session, with a pipe as stdin.

    `data_bytes` limits the memory of each process; `nice` lowers its priority.
    """
    limit = [] if data_bytes is None else [f"--data-bytes={data_bytes}"]
    return [sys.executable, "-I", "-S", __file__, f"--nice={nice}", *limit, "--", *command]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nice", type=int)
    parser.add_argument("--data-bytes", type=int)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    os.nice(options.nice)
    if options.data_bytes is not None:
        # Data rather than address space: mapped libraries and files are not the command's own memory.
        resource.setrlimit(resource.RLIMIT_DATA, (options.data_bytes, options.data_bytes))
    with _start(options.command) as child:
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        threading.Thread(target=_watch_parent, daemon=True).start()
        status = child.wait()
    return status if status >= 0 else 128 - status  # as a shell reports a signal


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start it with the secret for HIDDEN; in sight where this process may not trace another one."""
    if not any(HIDDEN in argument for argument in command):
        # What the parent lets the guard inherit is for the command alone: a socket ends when that closes it.
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2:
                with contextlib.suppress(OSError):  # of the listing itself
                    os.close(descriptor)
        return child
    secret = os.environ.pop(SECRET)
    real = [argument.replace(HIDDEN, secret) for argument in command]
    try:
        return _start_hidden(command, real)
    except (OSError, LookupError, subprocess.SubprocessError) as error:
        print(f"guard: other users of this machine can read the key: {error}", file=sys.stderr)
    return subprocess.Popen(real, stdin=subprocess.DEVNULL)


def _start_hidden(command: list[str], real: list[str]) -> subprocess.Popen[bytes]:
    """Start `command` with the arguments of `real`. Raises OSError, LookupError, SubprocessError."""
    changed = {place: text for place, text in enumerate(command) if text != real[place]}
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **{f"{SECRET}_{place}": real[place] for place in changed}},
        preexec_fn=lambda: _ptrace(PTRACE_TRACEME, 0),  # this process has no other threads yet
    )
    try:
        os.waitpid(child.pid, 0)  # it stops as soon as its program is loaded
        _exchange_arguments(child.pid, changed)
        _ptrace(PTRACE_DETACH, child.pid)
    except BaseException:
        child.kill()
        child.wait()
        raise
    return child


def _exchange_arguments(process: int, shown: dict[int, str]) -> None:
    """Make `argv[place]` of a process that has not begun point to the value of its variable SECRET_place.

    `shown` is what is there by place. Raises OSError, LookupError where this process looks otherwise.
    """
    with open(f"/proc/{process}/stat") as stat:
        fields = stat.read().rpartition(") ")[2].split()
    stack = int(fields[START_OF_STACK - 3])
    with open(f"/proc/{process}/mem", "r+b", buffering=0) as memory:

        def read(address: int, size: int) -> bytes:
            memory.seek(address)
            return memory.read(size)

        def word(place: int) -> int:
            return int.from_bytes(read(stack + WORD * place, WORD), sys.byteorder)

        variables = itertools.takewhile(bool, map(word, itertools.count(word(0) + 2)))
        found = {read(address, LONGEST_NAME).partition(b"=")[0]: address for address in variables}
        for place, text in shown.items():
            if read(word(1 + place), len(text)) != text.encode():
                raise LookupError(f"argument {place} is not where it was expected")
            name = f"{SECRET}_{place}".encode()
            memory.seek(stack + WORD * (1 + place))
            memory.write((found[name] + len(name) + 1).to_bytes(WORD, sys.byteorder))


def _ptrace(request: int, process: int) -> None:
    import ctypes  # a tenth of a guard's start, and most have nothing to hide

    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(request, process, None, None) == -1:
        raise OSError(ctypes.get_errno(), f"ptrace: {os.strerror(ctypes.get_errno())}")


def _watch_parent() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
