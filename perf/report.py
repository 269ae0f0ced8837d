"""Reports: a Markdown table for people, JSON for programs, and what machine it was, under perf/results."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from perf.distribution import Distribution

RESULTS = Path(__file__).resolve().parent / "results"
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")


def machine() -> dict[str, str]:
    """Processor, cores, flags that matter for products, versions."""
    text = Path("/proc/cpuinfo").read_text("utf-8")
    model = re.search(r"^model name\s*: (.*)$", text, re.M)
    flags = re.search(r"^flags\s*: (.*)$", text, re.M)
    known = flags.group(1).split() if flags else []
    return {
        "processor": model.group(1) if model else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "flags": " ".join(flag for flag in CPU_FLAGS if flag in known),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime_version(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def onnxruntime_version() -> str:
    """Of whichever of its packages is installed."""
    try:
        return version("onnxruntime")
    except PackageNotFoundError:
        return f"{version('onnxruntime-gpu')} (gpu)"


def command_line(name: str) -> str:
    """What makes a report again, of a module of `perf` that has its own options."""
    return shlex.join(["lmaas", "perf", name, *sys.argv[1:]])


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """Median with the least and the largest."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def times(name: str, found: Distribution | None, percentiles: Sequence[str]) -> dict[str, object]:
    """Columns of milliseconds."""
    return {
        f"{name} {percentile}": "" if found is None else milliseconds(getattr(found, percentile))
        for percentile in percentiles
    }


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.4g}"


def result_path(name: str, suffix: str) -> Path:
    """perf/results/NAME with a suffix; the folder is there."""
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{name}{suffix}"


def write(name: str, text: str, data: Mapping[str, Any]) -> None:
    """Print the report and write it to perf/results/NAME.md and NAME.json."""
    facts = machine()
    head = ", ".join(f"{key} {value}" for key, value in facts.items())
    result_path(name, ".md").write_text(f"{head}\n\n{text}", "utf-8")
    result_path(name, ".json").write_text(json.dumps({"machine": facts, **data}, indent=2) + "\n", "utf-8")
    print(f"{head}\n\n{text}")
