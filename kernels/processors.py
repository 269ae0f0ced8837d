"""How many processors this process may use: as its CPU set and the quotas of its control groups say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")  # lines of hierarchy:controllers:path


def usable_cores() -> int:
    """At least 1. A quota of 2.5 processors counts as 2: with more threads the kernel would halt them all."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *_quotas()]))


def _quotas() -> Iterator[int]:
    """Whole processors of each group that bounds this process, as far as it has a quota.

    A container sees its own group as the root, or has the host's path in OWN_GROUPS and does not find it.
    """
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:  # another system
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _of_each(GROUPS, path, _quota_of_version_2)
        elif "cpu" in controllers.split(","):
            for folder in (GROUPS / controllers, GROUPS / "cpu"):
                yield from _of_each(folder, path, _quota_of_version_1)


def _of_each(root: Path, path: str, read: Callable[[Path], int]) -> Iterator[int]:
    """Of the group `path` and those that it lies in."""
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        if folder.is_relative_to(root):
            with suppress(OSError, ValueError):  # there is none, or it is "max"
                yield read(folder)


def _quota_of_version_2(folder: Path) -> int:
    """https://docs.kernel.org/admin-guide/cgroup-v2.html: microseconds in each period, or "max"."""
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota) // int(period)


def _quota_of_version_1(folder: Path) -> int:
    """https://docs.kernel.org/scheduler/sched-bwc.html: likewise in two files; -1: no quota."""
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    if quota < 0:
        raise ValueError("no quota")
    return quota // int((folder / "cpu.cfs_period_us").read_text())
