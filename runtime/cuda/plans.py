"""The plans of a machine: each is built once, by a child process with limits, and kept in a folder.

A plan depends on the graph, the version of TensorRT and the GPU. So it is built where it runs, and is no part
of an artifact: the folder can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import astuple
from pathlib import Path

from runtime.cuda import libraries
from runtime.cuda.plan import PlanError, PlanLimits, library
from runtime.interpreter import python, search_path

# Less than a first load may take in which its own process does nothing: LOAD_SECONDS of api/back/cluster.
BUILD_SECONDS = 100.0
# gpt2 took 1.3 GB for 0.25 GB of weights.
BUILD_BYTES = 16 * 1024**3
KEPT = 16  # plans: those that were used last


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
            _build(graph, plan, limits)
            _remove_oldest(folder)
    except OSError as error:
        raise PlanError(f"{folder}: {error.strerror or error}") from None
    return plan


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
