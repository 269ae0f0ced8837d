"""Seconds and peak memory of whole exports, in GPT-2's four sizes, with random weights.

    python -m perf.exports
    python -m perf.exports gpt2 gpt2-medium --variants fp32,int8

Each export is a process of its own. Memory is the most that it ever had resident, mapped files included,
beside the bytes of its largest variant. The checkpoints stay in --work for the next time: 10 GB in all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from perf.checkpoints import SIZES, write_checkpoint
from perf.report import RESULTS, command_line, markdown_table, write
from runtime.contract import Manifest

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
    """Run `python -m export` and watch it; the artifact is removed again."""
    command = [sys.executable, "-m", "export", str(checkpoint), str(output), "--name", checkpoint.name]
    begin = time.perf_counter()
    child = subprocess.Popen([*command, "--variants", variants, "--overwrite"], cwd=ROOT)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begin
    if child.returncode:
        sys.exit(f"the export of {checkpoint.name} ended with status {child.returncode}")
    manifest = Manifest.load(output)
    shutil.rmtree(output)
    sizes = {variant.value: entry.size for variant, entry in manifest.variants.items()}
    return Export(seconds, usage.ru_maxrss * 1024, sizes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", default=list(SIZES), help=f"of {', '.join(SIZES)}")
    parser.add_argument("--variants", default="fp32,fp16,int8")
    parser.add_argument(
        "--work", type=Path, default=RESULTS / "checkpoints", help="where checkpoints are kept"
    )
    options = parser.parse_args()
    rows, data = [], {}
    for size in options.sizes:
        checkpoint = options.work / size
        write_checkpoint(size, checkpoint)
        done = export(checkpoint, options.work / f"{size}-artifact", options.variants)
        largest = max(done.sizes.values())
        sizes = ", ".join(f"{name} {count / 1e6:.0f}" for name, count in done.sizes.items())
        rows.append((size, sizes, f"{done.seconds:.1f}", f"{done.peak / 1e6:.0f}", f"{done.ratio:.2f} x"))
        data[size] = {"seconds": done.seconds, "peak": done.peak, "sizes": done.sizes, "largest": largest}
    columns = ("shape", "variants, MB", "seconds", "peak memory, MB", "peak / largest variant")
    command = command_line("exports")
    write("exports", f"`{command}`\n\n{markdown_table(columns, rows)}", {"command": command, **data})


if __name__ == "__main__":
    main()
