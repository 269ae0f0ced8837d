"""Pauses before another try, for servers and replicas that die or do not start."""

from __future__ import annotations

STABLE_SECONDS = 60.0  # what ran for this long begins its count of deaths again
RESTART_BACKOFF_SECONDS = 30.0  # the longest pause between two starts of a process


def backoff_seconds(times: int, longest: float) -> float:
    """1, 2, 4 ... seconds, `longest` at most; 0 before the first try (`times` is 0 or less)."""
    return min(longest, 2.0 ** (times - 1)) if times > 0 else 0.0
