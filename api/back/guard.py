"""Runs a command that ends with its parent, whatever it started in turn.

A guard leads a process group, of which the command and its children become members. Its standard input is a
pipe that the parent holds open: when the parent dies, however it dies, the pipe ends and the guard kills the
group. (The kernel's parent-death signal reaches the command alone; Triton's stubs can outlive their server.)
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import threading


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
    with subprocess.Popen(options.command, stdin=subprocess.DEVNULL) as child:
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        threading.Thread(target=_watch_parent, daemon=True).start()
        status = child.wait()
    return status if status >= 0 else 128 - status  # as a shell tells of a signal


def _watch_parent() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
