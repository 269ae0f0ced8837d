"""The load while it runs, on standard error: one moving line on a terminal, else a line for each level."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from perf.http.load import Load

REFRESH_SECONDS = 0.5  # drawing costs the cores that are under load


class Progress:
    """Shows one load after the other in one line. `say` prints a line that stays."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._moves = sys.stderr.isatty() and not self._console.is_dumb_terminal

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    @asynccontextmanager
    async def follow(self, load: Load, name: str, seconds: float | None) -> AsyncIterator[None]:
        """Show a load's counts; `seconds` is how long it sends, None where that is not known."""
        if not self._moves:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            watching = asyncio.create_task(_watch(live, load, name, seconds))
            try:
                yield
            finally:
                watching.cancel()


async def _watch(live: Live, load: Load, name: str, seconds: float | None) -> None:
    begin = time.monotonic()
    while True:
        passed = time.monotonic() - begin
        of = f" of {seconds:.0f}" if seconds is not None else ""
        line = f"{name}  {passed:5.0f}{of} s  {load.in_flight} under way, {load.finished} ended"
        if load.failed:
            line += f", {load.failed} failed"
        live.update(Text(f"{line}  ({load.finished / max(passed, 1e-9):.1f}/s)"), refresh=True)
        await asyncio.sleep(REFRESH_SECONDS)
