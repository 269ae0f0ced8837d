"""What processes of this machine use: processor seconds and resident memory."""

from __future__ import annotations

import psutil

from train.evaluation.target import Usage


class ProcessMeter:
    """This process; its memory counts from when the meter was made, before the model was opened."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before: int = self._process.memory_info().rss

    def usage(self) -> Usage:
        times = self._process.cpu_times()
        return Usage(times.user + times.system, max(0, self._process.memory_info().rss - self._before))


def tree_usage(pids: list[int]) -> Usage:
    """These processes with all below them; not known where one of them is not of this machine."""
    try:
        tree = {
            each
            for pid in pids
            for each in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
        }
        times = [each.cpu_times() for each in tree]
        memory = sum(each.memory_info().rss for each in tree)
    except psutil.Error:
        return Usage()
    return Usage(sum(each.user + each.system for each in times), memory) if tree else Usage()
