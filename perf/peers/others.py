"""How much of the processor everyone else took while a worker computed.

An engine whose threads wait for each other by spinning can lose more than that share, so figures from a busy
machine are no comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IDLE = (3, 4)  # places of idle and iowait in the first line of /proc/stat, see proc(5)
GUEST = 8  # from here on the values are counted in others already


class Others:
    """Watches the process `pid`; one share of all cores for each measurement."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.shares: list[float] = []

    @contextmanager
    def measured(self) -> Iterator[None]:
        """A measurement inside; steal by the machine's host counts as others."""
        busy, total, own = *_processors(), self._own()
        yield
        busy_then, total_then, own_then = *_processors(), self._own()
        foreign = (busy_then - busy) - (own_then - own)
        self.shares.append(max(0.0, foreign) / max(1.0, total_then - total))

    def _own(self) -> float:
        """Ticks of the process and its threads, user and system; 0 when it has ended."""
        try:
            line = Path(f"/proc/{self._pid}/stat").read_text("utf-8")
        except OSError:
            return 0.0
        values = line.rpartition(")")[2].split()
        return float(values[11]) + float(values[12])


def _processors() -> tuple[float, float]:
    """Ticks of all cores since the start: busy, and all."""
    with open("/proc/stat", encoding="utf-8") as file:
        values = [float(value) for value in file.readline().split()[1 : 1 + GUEST]]
    total = sum(values)
    return total - sum(values[place] for place in IDLE), total
