"""How many processors this process may use: as its CPU set and the quota of its container say."""

from __future__ import annotations

import os
from pathlib import Path

# Of the control group of this container, version 2: microseconds of CPU time, or "max", in each period.
# https://docs.kernel.org/admin-guide/cgroup-v2.html
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """At least 1. A quota of 2.5 processors counts as 2: with more threads the kernel would halt them all."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = CPU_MAX.read_text().split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):  # another system, or "max"
        return allowed
