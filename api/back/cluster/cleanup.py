"""What a server that was killed leaves behind: processes, shared memory, temporary folders. All blocking."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from api.back.cluster.installation import STUB_NAME
from api.back.cluster.server_home import SHARED_MEMORY, shared_memory_prefix
from api.back.settings import BackSettings

GONE_SECONDS = 5.0  # that the kernel may take to end a killed process
POLL_SECONDS = 0.02
ENVIRONMENTS = Path("/tmp")  # where Triton's Python backend makes one, whatever TMPDIR says
PYTHON_BACKEND = "libtriton_python.so"
REPOSITORY_OPTION = "--model-repository="

logger = logging.getLogger(__name__)


def end_leftovers(settings: BackSettings) -> None:
    """Kill the guards, servers and stubs of this home that a killed façade left."""
    folder = str(settings.triton.resolve())
    stub = str((settings.backends / "python" / STUB_NAME).relative_to(settings.triton))
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            command = process.cmdline()
            ours = command[:1] == [stub] or any(part.startswith(REPOSITORY_OPTION) for part in command)
            if ours and process.cwd() == folder:
                logger.warning("ending process %d, left over from an earlier run", process.pid)
                process.kill()
                found.append(process)
    await_end(found)
    remove_shared_memory(shared_memory_prefix(settings))
    remove_environments(ENVIRONMENTS, python_backends())


def kill_group(group: int) -> None:
    """Kill all processes of a group, and wait until they are gone."""
    members = [process for process in psutil.process_iter() if _group_of(process) == group]
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    await_end(members)


def await_end(processes: list[psutil.Process]) -> None:
    """Wait for processes that were killed; `GONE_SECONDS` at most."""
    end = time.monotonic() + GONE_SECONDS
    while left := [process.pid for process in processes if _alive(process)]:
        if time.monotonic() > end:
            logger.error("the processes %s outlived SIGKILL by %s s", left, GONE_SECONDS)
            return
        time.sleep(POLL_SECONDS)


def remove_shared_memory(prefix: str) -> None:
    for path in SHARED_MEMORY.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)


def python_backends() -> list[float]:
    """The start times of all living processes that have Triton's Python backend loaded.

    Processes that this user may not look at are left out.
    """
    begun = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.NoSuchProcess):
            if PYTHON_BACKEND in Path(f"/proc/{process.pid}/maps").read_text(errors="replace"):
                begun.append(process.create_time())
    return begun


def remove_environments(folder: Path, begun: list[float]) -> None:
    """Remove this user's empty `python_env_*` of servers that are gone.

    Triton makes one with its first model, and removes it only where it has the time to end by itself. A
    folder that is younger than the oldest server of `begun` may belong to that server, and stays.
    """
    oldest = min(begun, default=math.inf)
    for path in folder.glob("python_env_*"):
        with suppress(OSError):  # not empty, another user's, or gone
            status = path.lstat()
            if status.st_uid == os.geteuid() and status.st_ctime < oldest:
                path.rmdir()


def _group_of(process: psutil.Process) -> int | None:
    with suppress(ProcessLookupError):
        return os.getpgid(process.pid)
    return None


def _alive(process: psutil.Process) -> bool:
    """A zombie counts as ended: in a container there may be no process that reaps it."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
