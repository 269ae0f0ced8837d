"""What came for a deployment, and what of it was finished: sums since the façade began."""

from __future__ import annotations


class Traffic:
    """Shared by a deployment and its replicas."""

    __slots__ = ("finished", "missed", "started")

    def __init__(self) -> None:
        self.started = 0  # requests that were given to a replica
        self.missed = 0  # requests that came while no replica answered
        self.finished = 0  # requests that were answered

    @property
    def arrivals(self) -> int:
        return self.started + self.missed
