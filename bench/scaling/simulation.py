"""A deployment that is scaled: Poisson arrivals, replicas that load for a while, a bounded queue."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

from api.back.cluster.autoscaler import Autoscaler, CapacityEstimate, Observation, ScalingPolicy
from bench.scaling.curves import Curve

INTERVAL = 5  # seconds between two decisions


@dataclass(frozen=True, slots=True)
class Subject:
    """What is scaled."""

    capacity: float = 10.0  # requests per second of one busy replica
    places: int = 32  # requests at once that fill a replica
    latency: float = 0.5  # seconds of a request that does not wait
    max_waiting: int = 256  # for each replica; more are refused
    load_seconds: int = 20  # until a new replica answers


@dataclass(slots=True)
class Second:
    offered: float  # requests per second, as the curve says
    replicas: int  # that answer
    asked: int  # replicas, by the latest decision
    in_flight: int
    refused: int


@dataclass(slots=True)
class Run:
    seconds: list[Second] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # of the decisions that changed something
    estimate: float | None = None  # of the capacity, at the end

    @property
    def changes(self) -> list[int]:
        """By how many replicas each change of the decision went up or down."""
        asked = [second.asked for second in self.seconds]
        return [after - before for before, after in pairwise(asked) if after != before]

    @property
    def turns(self) -> int:
        """How often a change went the other way than the change before."""
        changes = self.changes
        return sum((one > 0) is not (other > 0) for one, other in pairwise(changes))

    def refused(self, begin: int = 0, end: int | None = None) -> int:
        return sum(second.refused for second in self.seconds[begin:end])

    @property
    def replica_seconds(self) -> int:
        return sum(second.replicas for second in self.seconds)


class Simulation:
    def __init__(
        self,
        policy: ScalingPolicy,
        subject: Subject | None = None,
        *,
        measured: float | None = None,
        replicas: int = 1,
        seed: int = 1,
    ) -> None:
        """`measured` is the capacity that the autoscaler is given at the beginning."""
        self.subject = subject or Subject()
        estimate = CapacityEstimate(self.subject.places, measured, "as it was measured")
        self._autoscaler = Autoscaler(policy, estimate)
        self._random = random.Random(seed)
        self._asked = self._replicas = replicas
        self._coming: list[int] = []  # when each new replica answers
        self._in_flight = 0.0
        self._arrivals = 0
        self._finished = 0.0

    def run(self, curve: Curve, seconds: int) -> Run:
        run = Run()
        for second in range(seconds):
            offered = curve(second)
            refused = self._pass_second(offered, second)
            if second % INTERVAL == 0:
                self._decide(second, run)
            run.seconds.append(Second(offered, self._replicas, self._asked, int(self._in_flight), refused))
        run.estimate = self._autoscaler.estimate.value
        return run

    def _pass_second(self, offered: float, second: int) -> int:
        self._replicas += sum(due <= second for due in self._coming)
        self._coming = [due for due in self._coming if due > second]
        arrivals = self._poisson(offered)
        room = (self.subject.max_waiting + self.subject.places) * self._replicas
        taken = min(arrivals, max(0, room - int(self._in_flight)))
        self._in_flight += taken
        # Where places are free, each request takes its latency; else the capacity is the limit.
        able = min(self.subject.capacity * self._replicas, self._in_flight / max(1.0, self.subject.latency))
        finished = min(self._in_flight, able)
        self._in_flight -= finished
        self._arrivals += arrivals
        self._finished += finished
        return arrivals - taken

    def _decide(self, second: int, run: Run) -> None:
        observed = Observation(
            float(second), self._replicas, self._arrivals, int(self._finished), int(self._in_flight)
        )
        self._arrivals, self._finished = 0, self._finished - int(self._finished)
        decision = self._autoscaler.decide(observed, self._asked)
        if decision.replicas != self._asked:
            run.reasons.append(decision.reason)
        there = self._replicas + len(self._coming)
        self._coming += [second + self.subject.load_seconds] * (decision.replicas - there)
        surplus = max(0, there - decision.replicas)
        for _ in range(surplus):
            if self._coming:
                self._coming.pop()
            else:
                self._replicas -= 1
        self._asked = decision.replicas

    def _poisson(self, mean: float) -> int:
        """By counting exponential gaps; of large means by the normal distribution that they come near to."""
        if mean > 50:
            return max(0, round(self._random.gauss(mean, mean**0.5)))
        count, passed = -1, 0.0
        while passed < 1.0:
            passed += self._random.expovariate(mean) if mean > 0 else 1.0
            count += 1
        return count
