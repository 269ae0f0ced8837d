"""The machine during a measurement: the bandwidth of its memory, and the load of other processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

BLOCK_BYTES = 1 << 30  # of each thread
REPEATS = 7
IDLE = (3, 4)  # places of idle and iowait in the first line of /proc/stat, see proc(5)
GUEST = 8  # from here on the values are counted in others already


def measure_bandwidth(threads: int) -> float:
    """Bytes per second at which memory is read, the best of several passes.

    It bounds every engine: a step reads all weights once. Each thread searches the largest value of its own
    block, which no cache holds; NumPy does that with the widest loads and without the interpreter's lock.
    """
    blocks = [np.ones(BLOCK_BYTES // 4, np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return max(_pass(pool, blocks) for _ in range(REPEATS))


def _pass(pool: ThreadPoolExecutor, blocks: list[np.ndarray[tuple[int], np.dtype[np.float32]]]) -> float:
    begin = time.perf_counter()
    list(pool.map(np.max, blocks))
    return len(blocks) * BLOCK_BYTES / (time.perf_counter() - begin)


class OtherLoad:
    """The share of all cores that processes other than `pid` take, one value for each measurement.

    An engine whose threads spin while they wait for each other can lose more than that share: figures from a
    busy machine cannot be compared.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.shares: list[float] = []

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure what runs inside; time that the host of this machine takes counts as others."""
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
