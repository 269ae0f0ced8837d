"""Files of a run that survive interruptions: whole or not there, and metrics as JSON lines."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that is either the old one or the whole new one at all times."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class MetricsFile:
    """JSON lines of what was measured; `seconds` and `cpu_seconds` count all parts of an interrupted run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = (0.0, 0.0)
        self._begin = (time.monotonic(), time.process_time())

    def keep_until(self, step: int) -> None:
        """Drop the lines after `step`: a continued run measures them again."""
        lines = self._path.read_text("utf-8").splitlines() if self._path.exists() else []
        # A killed process can leave half a line at the end.
        whole = [json.loads(line) for line in lines if line.endswith("}")]
        kept = [entry for entry in whole if entry["step"] <= step] if step else []
        write_atomically(self._path, "".join(json.dumps(entry) + "\n" for entry in kept))
        if kept:
            self._before = (kept[-1]["seconds"], kept[-1]["cpu_seconds"])

    def add(self, step: int, epoch: float, measured: Mapping[str, float]) -> None:
        """Append one line. A figure that is no finite number becomes null."""
        now = (time.monotonic(), time.process_time())
        spent = [
            before + end - begin for before, begin, end in zip(self._before, self._begin, now, strict=True)
        ]
        entry: dict[str, float | None] = {
            "step": step,
            "epoch": round(epoch, 4),
            "seconds": round(spent[0], 2),
            "cpu_seconds": round(spent[1], 2),
        }
        entry |= {name: value if math.isfinite(value) else None for name, value in measured.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
