"""A command of ours as a child process of bounded memory and time, which reports in JSON lines.

Its standard output has one object a line: {"event": "progress", ...}, {"event": "error", "message", ...} with
exit status 2 where its input is at fault. Whatever ends the wait for it ends it, with its child processes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.back.cluster.installation import ROOT
from api.back.guard import guarded
from api.errors import ServerFault, StoreFull
from kernels.library import SWITCH

NICE = 10  # requests have priority
MAX_LINE = 1024 * 1024  # bytes of one progress line
ERROR_TAIL = 2000  # bytes of stderr that are logged
INPUT_AT_FAULT = 2  # exit status of the command
SIGNALLED = 128  # added by the guard to a signal's number
OUT_OF_ROOM = re.compile(r"No space left on device|Disk quota exceeded")
OUT_OF_MEMORY = re.compile(r"MemoryError|bad_alloc|[Cc]annot allocate memory|Failed to allocate")
INHERITED = ("HOME", "LANG", "PATH", SWITCH)

Event = dict[str, Any]
Progress = Callable[[Event], None]

logger = logging.getLogger(__name__)


class InputRefusedError(Exception):
    """The command's input is at fault; `event` is its error event."""

    def __init__(self, event: Mapping[str, Any]) -> None:
        super().__init__(str(event.get("message")))
        self.event = event


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one run: `memory` in bytes for each of its processes, `seconds` of wall-clock time."""

    memory: int
    seconds: float


async def run_bounded(
    module: str,
    arguments: Sequence[str],
    *,
    name: str,
    scratch: Path,
    bounds: Bounds,
    progress: Progress,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Run `python -m MODULE ARGUMENTS`; `name` is what messages call it, as `conversion`.

    `progress` gets the progress events without their "event". Temporary files go into `scratch`. Of this
    process's environment it has INHERITED alone, and `variables`. Raises InputRefusedError, StoreFull, and
    ServerFault: beyond its bounds, or failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    environment = {each: os.environ[each] for each in INHERITED if each in os.environ}
    environment |= {"TMPDIR": str(scratch), **(variables or {})}
    try:
        await asyncio.wait_for(
            _run(command, name, scratch, bounds.memory, progress, environment), bounds.seconds
        )
    except asyncio.TimeoutError:
        raise ServerFault(f"the {name} took longer than {bounds.seconds:g} s") from None


async def _run(
    command: list[str],
    name: str,
    scratch: Path,
    memory: int,
    progress: Progress,
    environment: Mapping[str, str],
) -> None:
    child = await asyncio.create_subprocess_exec(
        *guarded(command, nice=NICE, data_bytes=memory),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        limit=MAX_LINE,
        cwd=ROOT,  # `-m` imports from the working directory first: it must not be that of an upload
        env=environment,
        start_new_session=True,
    )
    try:
        failure, complaint = await asyncio.gather(_follow(child, name, progress), _tail(child))
        status = await child.wait()
    finally:
        await _end(child)
    if status == INPUT_AT_FAULT and failure is not None:
        raise InputRefusedError(failure)
    if status != 0:
        logger.error("the %s ended with status %d: %s", name, status, complaint)
        if OUT_OF_ROOM.search(f"{failure} {complaint}"):
            raise StoreFull(f"the disk is full: {scratch}: make room there")
        raise ServerFault(_explain(name, status, complaint, memory))


def _explain(name: str, status: int, complaint: str, memory: int) -> str:
    limit = f"{memory} bytes of memory"
    if OUT_OF_MEMORY.search(complaint):
        return f"the {name} needs more than {limit}"
    how = f"died of signal {status - SIGNALLED}" if status > SIGNALLED else f"failed with status {status}"
    return f"the process of the {name} {how}; it may use at most {limit}, and the server's log says more"


async def _events(lines: asyncio.StreamReader, name: str) -> AsyncIterator[Event]:
    try:
        async for line in lines:
            yield json.loads(line)
    except ValueError as error:  # not JSON, or a line beyond MAX_LINE
        raise ServerFault(f"the report of the {name} cannot be read: {error}") from None


async def _follow(child: Process, name: str, progress: Progress) -> Event | None:
    """Pass progress on; returns the error event if there is one."""
    failure = None
    assert child.stdout is not None
    async for event in _events(child.stdout, name):
        kind = event.pop("event")
        if kind == "progress":
            progress(event)
        elif kind == "error":
            failure = event
    return failure


async def _tail(child: Process) -> str:
    """The last bytes that it wrote to stderr."""
    tail = b""
    assert child.stderr is not None
    while chunk := await child.stderr.read(ERROR_TAIL):
        tail = (tail + chunk)[-ERROR_TAIL:]
    return tail.decode(errors="replace").strip()


async def _end(child: Process) -> None:
    """Kill it if it still runs, with its child processes."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, 9)
    await asyncio.shield(child.wait())
