"""Steps, each a process with a limit: one that hangs or fails takes no result from another.

A step prints JSON objects, one a line, as it finds something. A line gets the seconds since the first step
began, and the name of its step. After its last line comes how it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
LEAST_SECONDS = 2.0  # left of the budget; with less, no step begins
# For a killed process to close its pipe: one that the GPU's driver holds may never do so.
KILLED_SECONDS = 5.0

FAILURE = "failure"  # in a line: why the step cannot go on

Line = dict[str, Any]


class Ended(str, Enum):
    DONE = "done"
    NOT_HELD = "not held"  # it found something wrong: a line with `held` false
    FAILED = "failed"
    LATE = "too late"
    NOT_BEGUN = "not begun"
    NOT_NEEDED = "not needed"


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    seconds: float  # its limit
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)  # beside that of this process
    needs: Sequence[str] = ()  # steps that must be done: without them it does not begin
    only_without: str = ""  # a step: where that is done, there is no need for this one


def run_steps(steps: Sequence[Step], budget: float, write: Callable[[Line], None]) -> list[Line]:
    """All lines, each written when it is there; no step runs after `budget` seconds."""
    begin = time.monotonic()
    lines: list[Line] = []
    ended: dict[str, Ended] = {}

    def found(step: Step, line: Line) -> None:
        lines.append({"at": round(time.monotonic() - begin, 1), "step": step.name, **line})
        write(lines[-1])

    for step in steps:
        lacking = [name for name in step.needs if ended.get(name) is not Ended.DONE]
        left = begin + budget - time.monotonic()
        if lacking or left < LEAST_SECONDS:
            how = Ended.NOT_BEGUN
            last: Line = {"reason": f"it needs the step {lacking[0]}" if lacking else "the budget is used up"}
        elif ended.get(step.only_without) is Ended.DONE:
            how, last = Ended.NOT_NEEDED, {}
        else:
            how, last = _run(step, min(step.seconds, left), partial(found, step))
        ended[step.name] = how
        found(step, {"ended": how.value, **last})
    return lines


def _run(step: Step, limit: float, found: Callable[[Line], None]) -> tuple[Ended, Line]:
    """How it ended, with seconds and reason."""
    begin = time.monotonic()
    lines: list[Line] = []

    def read(pipe: IO[str]) -> None:
        with pipe:
            for text in pipe:
                with contextlib.suppress(ValueError):  # the rest of a line whose process was killed
                    lines.append(json.loads(text))
                    found(lines[-1])

    with _started(step) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=read, args=[process.stdout], daemon=True)
        reader.start()
        status = _status(process, reader, begin + limit)
    reader.join(KILLED_SECONDS)
    seconds = round(time.monotonic() - begin, 1)
    if status is None:
        return Ended.LATE, {"seconds": seconds, "reason": f"stopped after {limit:.3g} s"}
    if status:
        reasons = [line[FAILURE] for line in lines if FAILURE in line]
        reason = reasons[-1] if reasons else f"its process ended with status {status}"
        return Ended.FAILED, {"seconds": seconds, "reason": reason}
    all_held = all(line.get("held", True) for line in lines)
    return (Ended.DONE if all_held else Ended.NOT_HELD), {"seconds": seconds}


def _status(process: subprocess.Popen[str], reader: threading.Thread, end: float) -> int | None:
    """None: it had not ended at `end`."""
    reader.join(end - time.monotonic())
    try:
        return process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None


@contextlib.contextmanager
def _started(step: Step) -> Iterator[subprocess.Popen[str]]:
    """Its process; at the end, that and all that it started are killed."""
    variables = {**os.environ, **step.environment}
    process = subprocess.Popen(
        step.command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILLED_SECONDS)
