"""How many replicas a deployment needs, with the reason in words: a calculation over observations alone.

Little's law: where requests arrive at a rate and a busy replica finishes `capacity` of them a second, the
arrivals keep rate / capacity replicas busy. Divided by the utilisation that is aimed at, this leaves room for
chance. What waits beyond the places of the replicas counts as arrivals that are to be caught up with.

More replicas are wanted at once. Fewer are wanted only when that number was enough during the whole of the
stabilisation time; so a decision is not taken back by the next one.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

RATE_SECONDS = 10.0  # the arrivals of longer ago count little
CAPACITY_SECONDS = 60.0  # likewise of what replicas finish
CATCH_UP_SECONDS = 30.0  # in which what waits should be done
TOLERANCE = 0.1  # above what is aimed at, before a replica is added


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """The bounds of a decision. `minimum` 0: no replica while nothing arrives."""

    minimum: int = 1
    maximum: int = 1
    utilisation: float = 0.7  # aimed at, of what the replicas can do
    stabilisation_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Observation:
    """A deployment now, and what happened since the observation before."""

    time: float  # on a monotonic clock, seconds
    replicas: int  # that answer
    arrivals: int
    finished: int
    in_flight: int  # requests that run or wait


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    replicas: int  # within the policy's bounds
    wanted: int  # without the policy's maximum
    arrival_rate: float  # requests per second
    waiting: int  # requests beyond the places of the replicas
    capacity: float | None  # requests per second of one replica; None: not known yet
    basis: str  # what the capacity is based on
    utilisation: float | None  # arrivals as a share of what the present replicas can do
    reason: str


class CapacityEstimate:
    """Requests per second that one busy replica finishes: a measured figure, corrected by the live traffic.

    A replica is busy while its places are full. Then it does what it can, be it more or less than thought.
    Where it is not busy, the traffic only shows that it can do at least as much.
    """

    def __init__(self, places: int, measured: float | None = None, measured_by: str = "") -> None:
        """`places`: requests in flight that keep a replica busy. `measured_by` is for the words alone."""
        self.places = places
        self.value = measured or None
        self.busy_seconds = 0.0  # of all replicas, that the value comes from
        self._measured_by = measured_by
        self._throughput: float | None = None

    @property
    def basis(self) -> str:
        if self.value is None:
            return f"not measured; {self.places} requests at once fill a replica"
        if not self.busy_seconds:
            return self._measured_by
        live = f"live traffic in {self.busy_seconds:.0f} busy seconds"
        return f"{live}, first {self._measured_by}" if self._measured_by else live

    def observe(self, seconds: float, replicas: int, finished: int, in_flight: int) -> None:
        """`in_flight` is the least number of the time observed."""
        if not replicas:
            return
        rate = finished / seconds / replicas
        self._throughput = _smoothed(self._throughput, rate, seconds, CAPACITY_SECONDS)
        if in_flight >= self.places * replicas and (finished or self.value is not None):
            self.value = _smoothed(self.value, rate, seconds, CAPACITY_SECONDS)
            self.busy_seconds += seconds * replicas
        elif self.value is not None and self._throughput > self.value:
            self.value = self._throughput
            self.busy_seconds += seconds * replicas


class Autoscaler:
    """Of one deployment: keeps what the next decision needs of the past."""

    def __init__(self, policy: ScalingPolicy, estimate: CapacityEstimate) -> None:
        self.policy = policy
        self.estimate = estimate
        self._last: Observation | None = None
        self._silent_since: float | None = None
        self._rate: float | None = None
        self._needs: deque[tuple[float, int]] = deque()  # (time, replicas) of the stabilisation time

    def decide(self, now: Observation, current: int) -> ScalingDecision:
        """`current` replicas were asked for by the decision before, or are there at the beginning."""
        before, self._last = self._last, now
        if before is not None and now.time > before.time:
            seconds = now.time - before.time
            self._rate = _smoothed(self._rate, now.arrivals / seconds, seconds, RATE_SECONDS)
            least = min(now.in_flight, before.in_flight)
            self.estimate.observe(seconds, min(now.replicas, before.replicas), now.finished, least)
        # Silence counts from when a replica answers: the request that it was loaded for has to come again.
        loads = current > 0 and not now.replicas
        has_loaded = before is not None and not before.replicas and now.replicas > 0
        if now.arrivals or now.in_flight or loads or has_loaded or self._silent_since is None:
            self._silent_since = now.time
        wanted = self._wanted(now, current)
        bounded = max(self.policy.minimum, min(self.policy.maximum, wanted))
        return self._explained(now, current, wanted, bounded)

    @property
    def _waiting(self) -> int:
        last = self._last
        return 0 if last is None else max(0, last.in_flight - self.estimate.places * last.replicas)

    def _wanted(self, now: Observation, current: int) -> int:
        if self._is_silent(now):
            return 0
        exact = self._exact(now)
        self._needs.append((now.time, math.ceil(exact)))
        while now.time - self._needs[0][0] > self.policy.stabilisation_seconds:
            self._needs.popleft()
        at_once = math.ceil(exact / (1 + TOLERANCE))
        if at_once > current:
            return at_once
        seen = now.time - self._needs[0][0] + _interval(self._needs)
        if seen < self.policy.stabilisation_seconds:
            return current
        return min(current, max(need for _, need in self._needs))

    def _exact(self, now: Observation) -> float:
        """Replicas that the load needs, as a fraction above 0."""
        capacity, aim = self.estimate.value, self.policy.utilisation
        if capacity:
            exact = ((self._rate or 0.0) + self._waiting / CATCH_UP_SECONDS) / (capacity * aim)
        else:
            exact = now.in_flight / (self.estimate.places * aim)
        return max(exact, 1e-9)

    def _is_silent(self, now: Observation) -> bool:
        """No request came or ran during the stabilisation time, and no replica began to answer."""
        since = now.time if self._silent_since is None else self._silent_since
        return now.time - since >= self.policy.stabilisation_seconds

    def _explained(self, now: Observation, current: int, wanted: int, bounded: int) -> ScalingDecision:
        rate, capacity = self._rate or 0.0, self.estimate.value
        able = (capacity or 0.0) * now.replicas
        load = f"{rate:.1f} requests/s arrive"
        load += f" and {self._waiting} wait" if self._waiting else ""
        if capacity:
            gives = f"a replica finishes {capacity:.1f}/s ({self.estimate.basis})"
        else:
            gives = f"what a replica finishes is {self.estimate.basis}, and {now.in_flight} are under way"
        aim = f"at a utilisation of {self.policy.utilisation:.0%} that needs {_replicas(wanted)}"
        if not wanted:
            aim = f"no request came for {self.policy.stabilisation_seconds:.0f} s"
        elif wanted == current and math.ceil(self._exact(now)) < current:
            aim = f"fewer than {_replicas(current)} would do now, but not during the last "
            aim += f"{self.policy.stabilisation_seconds:.0f} s"
        limit = ""
        if bounded < wanted:
            limit = f"; {wanted - bounded} missing, as the maximum is {self.policy.maximum}"
        elif bounded > wanted:
            limit = f"; the minimum is {self.policy.minimum}"
        return ScalingDecision(
            bounded,
            wanted,
            rate,
            self._waiting,
            capacity,
            self.estimate.basis,
            rate / able if able else None,
            f"{load}; {gives}; {aim}{limit}",
        )


def _interval(needs: deque[tuple[float, int]]) -> float:
    """Between the two latest decisions."""
    return needs[-1][0] - needs[-2][0] if len(needs) > 1 else 0.0


def _smoothed(old: float | None, new: float, seconds: float, memory: float) -> float:
    """A mean in which what was `memory` seconds ago has a weight of 1/e."""
    return new if old is None else old + (1 - math.exp(-seconds / memory)) * (new - old)


def _replicas(count: int) -> str:
    return "1 replica" if count == 1 else f"{count} replicas"
