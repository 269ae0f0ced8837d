"""How fast this machine's memory can be read, which bounds every engine: a step reads all weights once.

Each thread finds the largest of a block of its own that no cache holds, again and again; NumPy does that with
the widest loads and without the interpreter's lock.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

BLOCK_BYTES = 1 << 30  # of each thread
REPEATS = 7


def measure_bandwidth(threads: int) -> float:
    """Bytes per second, the best of some passes: the limit, not the habit."""
    blocks = [np.ones(BLOCK_BYTES // 4, np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return max(_pass(pool, blocks) for _ in range(REPEATS))


def _pass(pool: ThreadPoolExecutor, blocks: list[np.ndarray[tuple[int], np.dtype[np.float32]]]) -> float:
    begin = time.perf_counter()
    list(pool.map(np.max, blocks))
    return len(blocks) * BLOCK_BYTES / (time.perf_counter() - begin)
