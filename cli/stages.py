"""The stages of an export while they run, on standard error: bars on a terminal, else a plain line each."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from export.progress import Progress, Report

NAME_WIDTH = 25  # characters


@contextmanager
def stages_shown() -> Iterator[Report]:
    """A report that shows each stage. Nothing is shown before the first: a download shows its bars itself."""
    console = Console(stderr=True)
    shown: _Bars | _Lines = _Lines()
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        shown = _Bars(console)

    def show(progress: Progress) -> None:
        if progress.share:
            shown.step(progress.share)
        else:
            shown.end()
            if progress.done < progress.total:
                shown.begin(progress.stage)

    try:
        yield show
    finally:
        shown.close()


class _Bars:
    """A bar for each stage, and its seconds; those that ended stay."""

    def __init__(self, console: Console) -> None:
        name = TextColumn(f"{{task.description:<{NAME_WIDTH}}}", markup=False)
        columns = (SpinnerColumn("line", finished_text=" "), name, BarColumn(24), _Seconds())
        self._bars = Bars(*columns, console=console)

    def begin(self, stage: str) -> None:
        self._bars.start()
        self._bars.add_task(stage, total=None)

    def step(self, share: float) -> None:
        self._bars.update(self._bars.task_ids[-1], total=1, completed=share)

    def end(self) -> None:
        if self._bars.task_ids:
            self.step(1)

    def close(self) -> None:
        self._bars.stop()


class _Seconds(ProgressColumn):
    def render(self, task: Task) -> Text:
        seconds = task.finished_time if task.finished else task.elapsed
        return Text(f"{seconds or 0:6.1f} s")


class _Lines:
    """A line for each stage: its name when it begins, its seconds when it ends."""

    def __init__(self) -> None:
        self._begin: float | None = None

    def begin(self, stage: str) -> None:
        self._begin = time.monotonic()
        sys.stderr.write(f"{stage:<{NAME_WIDTH}}")
        sys.stderr.flush()

    def step(self, share: float) -> None:
        """A line cannot move."""

    def end(self) -> None:
        if self._begin is not None:
            sys.stderr.write(f"{time.monotonic() - self._begin:6.1f} s\n")
            self._begin = None

    def close(self) -> None:
        if self._begin is not None:
            sys.stderr.write("\n")
