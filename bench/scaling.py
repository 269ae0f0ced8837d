"""How the autoscaler follows curves of arrivals: a simulation with chance, and no real server."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from api.back.cluster.autoscaler import Autoscaler, CapacityEstimate, Observation, ScalingPolicy
from cli.show import print_table

# Arrivals over time: requests per second at a second of the simulation.
Curve = Callable[[float], float]

RECORDED = Path(__file__).parent / "recorded_arrivals.txt"
RECORDED_SECONDS = 10  # of each of its numbers
DAY = 86_400.0
INTERVAL = 5  # seconds between two decisions


def step(before: float, after: float, at: float) -> Curve:
    return lambda second: before if second < at else after


def ramp(before: float, after: float, begin: float, end: float) -> Curve:
    def rate(second: float) -> float:
        passed = min(1.0, max(0.0, (second - begin) / (end - begin)))
        return before + passed * (after - before)

    return rate


def daily(least: float, most: float) -> Curve:
    """A sine: the least at midnight, the most at noon."""
    middle, height = (least + most) / 2, (most - least) / 2
    return lambda second: middle - height * math.cos(2 * math.pi * second / DAY)


def spike(base: float, top: float, at: float, seconds: float) -> Curve:
    return lambda second: top if at <= second < at + seconds else base


def recorded(mean: float) -> Curve:
    """An hour as it was recorded, with its rates multiplied so that their mean is `mean`."""
    lines = [line for line in RECORDED.read_text().splitlines() if not line.startswith("#")]
    counts = [int(count) for line in lines for count in line.split()]
    factor = mean * len(counts) / sum(counts)
    return lambda second: factor * counts[int(second / RECORDED_SECONDS) % len(counts)]


CURVES = {
    "step, 5 to 50": (step(5, 50, at=600), 3600),
    "ramp, 5 to 80 in 30 minutes": (ramp(5, 80, 600, 2400), 4000),
    "ramp, 80 to 5 in 30 minutes": (ramp(80, 5, 600, 2400), 4000),
    "a day, 2 to 100": (daily(2, 100), int(DAY)),
    "spike, 60 for a minute": (spike(5, 60, at=600, seconds=60), 2400),
    "recorded hour, mean 40": (recorded(40), 3500),
}


def scaling(
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 1,
    load_seconds: Annotated[int, typer.Option(help="Until a new replica answers.", min=1)] = 20,
) -> None:
    """Print what the autoscaler did under each curve of arrivals."""
    subject = Subject(load_seconds=load_seconds)
    rows = []
    for name, (curve, seconds) in CURVES.items():
        enough = int(curve(0) / subject.capacity) + 1
        simulation = Simulation(
            ScalingPolicy(1, 20), subject, measured=subject.capacity, replicas=enough, seed=seed
        )
        run = simulation.run(curve, seconds)
        offered = sum(second.offered for second in run.seconds)
        used = offered / (run.replica_seconds * subject.capacity)
        most = max(second.replicas for second in run.seconds)
        rows.append(
            (name, most, len(run.changes), run.turns, f"{used:.0%}", f"{run.refused() / offered:.2%}")
        )
    print_table(
        ("requests/s", "most replicas", "changes", "turns", "utilisation", "refused"), rows, "no curves"
    )


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
    """A deployment that is scaled: Poisson arrivals, replicas that load for a while, a bounded queue."""

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
