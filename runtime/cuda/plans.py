"""The plans of a machine: each is built once, by a child process with limits, and kept in a folder.

A plan depends on the graph, the version of TensorRT and the GPU. So it is built where it runs, and is no part
of an artifact: the folder can be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from runtime.cuda import libraries
from runtime.cuda.plan import PlanError, PlanLimits, library
from runtime.interpreter import python, search_path

# Less than a first load may take in which its own process does nothing: LOAD_SECONDS of api/back/cluster.
BUILD_SECONDS = 100.0
# gpt2 took 1.3 GB for 0.25 GB of weights.
BUILD_BYTES = 16 * 1024**3
KEPT = 16  # plans: those that were used last
ATTEMPTS = 2  # to load a plan that end their processes; then it is not loaded any more
ATTEMPT = "attempt"  # how the name of a file ends that stands for one


def find_plan(folder: Path, graph: Path, digest: str, limits: PlanLimits, *, capability: str = "") -> Path:
    """The plan of `graph`, built where there is none; `digest` stands for graph and weights.

    It is for this machine's GPU, or for the capability of another. Raises PlanError.
    """
    trt, gpu = library(), capability or libraries.gpu_name()
    parts = (digest, trt.__name__, trt.__version__, gpu, *astuple(limits))
    plan = folder / f"{hashlib.sha256(repr(parts).encode()).hexdigest()}.plan"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if plan.is_file():
            os.utime(plan)
        else:
            _forget_attempts(plan)
            _build(graph, plan, limits)
            _remove_oldest(folder)
    except OSError as error:
        raise PlanError(f"{folder}: {error.strerror or error}") from None
    return plan


@contextmanager
def attempt(plan: Path) -> Iterator[None]:
    """Within it the plan is loaded and answers the golden prompts, which may end this process.

    Raises PlanError where ATTEMPTS processes ended so: this one would, too, and again after each restart. A
    file beside the plan stands for each attempt. It is locked while its process lives, and is removed when
    the attempt ends, or with the plan.
    """
    try:
        ended = [file for file in _attempts(plan) if _has_ended(file)]
        if len(ended) >= ATTEMPTS:
            said = ended[-1].read_text().strip()
            files = f"{plan.stem}.*.{ATTEMPT}"
            raise PlanError(f"it ended {len(ended)} processes ({said}): delete {files} to try it again")
        file, path = _begin_attempt(plan)
    except OSError as error:
        raise PlanError(f"{plan.parent}: {error.strerror or error}") from None
    with file:
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def _begin_attempt(plan: Path) -> tuple[TextIO, Path]:
    path = plan.with_suffix(f".{time.time_ns()}.{os.getpid()}.{ATTEMPT}")
    hidden = path.with_name(f".{path.name}")  # until it is locked: unlocked, it would count as ended
    file = hidden.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    hidden.rename(path)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    print(f"TensorRT {library().__version__}, process {os.getpid()}, {now}", file=file, flush=True)
    return file, path


def _attempts(plan: Path) -> list[Path]:
    """In the order of their beginnings, which their names have."""
    return sorted(plan.parent.glob(f"{plan.stem}.*.{ATTEMPT}"))


def _has_ended(path: Path) -> bool:
    """Whether its process ended, and the attempt did not: such a file stays."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: others may look at once
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


def _forget_attempts(plan: Path) -> None:
    for file in _attempts(plan):
        file.unlink(missing_ok=True)


def _build(graph: Path, plan: Path, limits: PlanLimits) -> None:
    options = [f"--num-slots={limits.num_slots}", f"--most-tokens={limits.most_tokens}"]
    options += [f"--context={limits.context}", f"--memory={BUILD_BYTES}"]
    command = [python(), "-m", "runtime.cuda.plan", str(graph), str(plan), *options]
    environment = {**os.environ, "PYTHONPATH": search_path()}
    try:
        ended = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=BUILD_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise PlanError(f"TensorRT did not build it within {BUILD_SECONDS:g} s") from None
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        said = lines[-1] if lines else f"its process ended with status {ended.returncode}"
        raise PlanError(f"TensorRT did not build it: {said}")


def _remove_oldest(folder: Path) -> None:
    """Of the plans alone, and of what a killed build left: other files in the folder are not ours."""
    plans = folder.glob(f"{'[0-9a-f]' * 64}.plan*")
    files = sorted(plans, key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[KEPT:]:
        file.unlink(missing_ok=True)
        _forget_attempts(file)
