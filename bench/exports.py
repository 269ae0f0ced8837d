"""Seconds and peak memory of whole exports, in GPT-2's four sizes, with random weights.

    python -m bench exports
    python -m bench exports gpt2 gpt2-medium --variants fp32,int8

Each export runs in its own process. Memory is the peak resident size of that process, mapped files included,
beside the bytes of its largest variant. The checkpoints stay in --work for the next time: 10 GB in all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bench import report
from bench.checkpoints import SIZES, write_checkpoint
from perf.errors import PerfError
from perf.report import markdown_table
from runtime.manifest import Manifest

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Export:
    seconds: float
    peak: int  # bytes
    sizes: dict[str, int]  # bytes by variant

    @property
    def ratio(self) -> float:
        return self.peak / max(self.sizes.values())


def export(checkpoint: Path, output: Path, variants: str) -> Export:
    """Run `python -m export` and measure it; the artifact is removed again. Raises PerfError."""
    command = [sys.executable, "-m", "export", str(checkpoint), str(output), "--name", checkpoint.name]
    begin = time.perf_counter()
    child = subprocess.Popen([*command, "--variants", variants, "--overwrite"], cwd=ROOT)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begin
    if child.returncode:
        raise PerfError(f"the export of {checkpoint.name} ended with status {child.returncode}")
    manifest = Manifest.load(output)
    shutil.rmtree(output)
    sizes = {variant.value: entry.size for variant, entry in manifest.variants.items()}
    return Export(seconds, usage.ru_maxrss * 1024, sizes)


def exports(
    sizes: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(SIZES)}.")] = None,
    variants: Annotated[str, typer.Option(help="Comma-separated.")] = "fp32,fp16,int8",
    work: Annotated[Path, typer.Option(help="Where checkpoints are kept.")] = report.RESULTS / "checkpoints",
) -> None:
    rows, data = [], {}
    for size in sizes or SIZES:
        checkpoint = work / size
        write_checkpoint(size, checkpoint)
        done = export(checkpoint, work / f"{size}-artifact", variants)
        largest = max(done.sizes.values())
        listed = ", ".join(f"{name} {count / 1e6:.0f}" for name, count in done.sizes.items())
        rows.append((size, listed, f"{done.seconds:.1f}", f"{done.peak / 1e6:.0f}", f"{done.ratio:.2f} x"))
        data[size] = {"seconds": done.seconds, "peak": done.peak, "sizes": done.sizes, "largest": largest}
    columns = ("shape", "variants, MB", "seconds", "peak memory, MB", "peak / largest variant")
    report.write("exports", markdown_table(columns, rows), data)
