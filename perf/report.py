"""Reports: Markdown for people, JSON for programs, a picture, and what machine it was."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from perf.distribution import Distribution

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent / "results"
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
DOTS_PER_INCH = 130


def command_line() -> str:
    """The command that makes a report again, with what it read from the environment."""
    script = Path(sys.argv[0])
    program = f"python -m {script.parent.name}" if script.name == "__main__.py" else script.stem
    url = os.environ.get("LMAAS_URL")
    prefix = f"LMAAS_URL={shlex.quote(url)} " if url and "--url" not in sys.argv else ""
    return f"{prefix}{program} {shlex.join(sys.argv[1:])}"


def write_report(
    name: str,
    command: str,
    text: str,
    data: Mapping[str, Any],
    draw: Callable[[], Figure] | None = None,
    folder: Path | None = None,
    more: Mapping[str, str] | None = None,
) -> None:
    """Print the report and write it to NAME.md, NAME.json and, with `draw`, NAME.png in `folder`.

    Without a folder it is perf/results. `more` are facts beside those of `machine`. Where matplotlib is not
    installed there is no picture, and a line says how to get one.
    """
    facts = machine() | dict(more or {})
    head = ", ".join(f"{key} {value}" for key, value in facts.items())
    whole = f"{head}\n\n`{command}`\n\n{text}"
    folder = folder or RESULTS
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.md").write_text(whole, "utf-8")
    content = json.dumps({"machine": facts, "command": command, **data}, indent=2)
    (folder / f"{name}.json").write_text(f"{content}\n", "utf-8")
    print(whole)
    if draw is None:
        return
    try:
        figure = draw()
    except ModuleNotFoundError as error:
        print(f"no plots: they need {error.name} (pip install -e '.[perf]')")
        return
    figure.savefig(folder / f"{name}.png", dpi=DOTS_PER_INCH)


def machine() -> dict[str, str]:
    """Processor, cores, the flags that matter for matrix products, versions."""
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
    """Of the package that is installed: one for CPUs, one for GPUs."""
    try:
        return version("onnxruntime")
    except PackageNotFoundError:
        return f"{version('onnxruntime-gpu')} (gpu)"


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
