"""Capacity: the highest rate of arrivals at which the p95 latency stays within a target.

Each probe is an open loop with Poisson arrivals: independent callers arrive like that. First a closed loop
measures the throughput of a deployment that is never idle; the search begins near it. Then it narrows the
offered rates until the highest rate that holds and the lowest that does not are close together. The result
must hold a second time, for twice as long. A rate holds where no request failed, answers kept up with
arrivals, and the p95 is within the target. The latency is the time to the first token of a streamed answer,
and the time to the end of any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from client.http import api_key
from perf.deployed import Deployed
from perf.errors import PlanError
from perf.http.ask import Api, Ask, Task
from perf.http.figures import Figures
from perf.http.load import Extent
from perf.http.plan import Level, LoadTarget, Plan
from perf.http.progress import Progress
from perf.http.prompts import Texts
from perf.http.run import in_event_loop, measure

TARGETS = {Task.GENERATE: 0.5, Task.CLASSIFY: 0.2, Task.INFER: 0.2, Task.NLU: 0.2}  # seconds
WARMUP = 2.0  # seconds of each probe that are not measured
CLOSED_LOOP = 32  # requests under way while the search looks for its beginning
KEPT_UP = 0.9  # share of the arrivals that must have been answered within the window
CLOSE = 1.1  # ratio of rates at which the search ends
LEAST_SHARE = 1 / 32  # of the beginning; below it nothing is looked for
STEP_BACK = 0.85  # where the highest rate does not hold a second time


@dataclass(frozen=True, slots=True)
class Capacity:
    """As a deployment's record keeps it. `tokens_per_second` is None for tasks that generate none."""

    requests_per_second: float
    tokens_per_second: float | None
    p95_seconds: float
    target_seconds: float
    measured_at: str  # ISO 8601, UTC
    command: str


@dataclass(frozen=True, slots=True)
class Probe:
    """One offered rate, and whether it held."""

    offered: float  # requests per second
    answered: float
    holds: bool
    figures: Figures
    p50_seconds: float | None
    p95_seconds: float | None


@dataclass(slots=True)
class Found:
    deployed: Deployed
    capacity: Capacity
    probes: list[Probe]


def capacity(
    url: str,
    deployed: Deployed,
    *,
    command: str,
    target_seconds: float | None = None,
    ask: Ask | None = None,
    texts: Texts | None = None,
    seconds: float = 5.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Found:
    """Search on the running appliance: some eight probes of `seconds`. Raises PlanError where none holds."""
    ask = ask or Ask(deployed.task)
    target = target_seconds or TARGETS[ask.task]
    plan = Plan(
        [LoadTarget(deployed.model, url, Api.LMAAS, deployed.model, key=api_key())],
        [],
        ask,
        texts or Texts(24),
        Extent(WARMUP, seconds),
        timeout=max(5.0, 20 * target),
        seed=seed,
    )
    search = _Search(plan, target, progress or Progress())
    best = in_event_loop(search.run())
    if best.p95_seconds is None:
        raise AssertionError("a probe that holds has answers")
    tokens = None
    if ask.task is Task.GENERATE:  # at the offered rate: the number of arrivals in a window varies by chance
        tokens = best.offered * best.figures.token_rate / best.answered
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    found = Capacity(best.offered, tokens, best.p95_seconds, target, now, command)
    return Found(deployed, found, search.probes)


@dataclass(slots=True)
class _Search:
    plan: Plan
    target: float  # seconds
    progress: Progress
    probes: list[Probe] = field(default_factory=list)

    async def run(self) -> Probe:
        begin = await self._when_never_idle()
        low, high, rate = 0.0, math.inf, 0.8 * begin
        while high > CLOSE * low:
            if rate < LEAST_SHARE * begin:
                raise PlanError(self._nothing_holds())
            if (await self._probe(rate)).holds:
                low = rate
                rate = 1.25 * rate if math.isinf(high) else math.sqrt(low * high)
            else:
                high = rate
                rate = math.sqrt(low * high) if low else high / 2
        return await self._confirmed(low, LEAST_SHARE * begin)

    async def _confirmed(self, rate: float, least: float) -> Probe:
        """A rate may hold by chance: try it for twice as long, and step back until one holds."""
        extent = self.plan.extent
        self.plan = replace(self.plan, extent=replace(extent, seconds=2 * extent.seconds))
        while rate >= least:
            if (probe := await self._probe(rate)).holds:
                return probe
            rate *= STEP_BACK
        raise PlanError(self._nothing_holds())

    async def _when_never_idle(self) -> float:
        """Requests per second of a closed loop."""
        plan = replace(self.plan, timeout=60.0)
        done = await measure(plan, Level(concurrency=CLOSED_LOOP), plan.targets[0], 0, self.progress)
        rate = done.requests_per_second
        if not rate:
            errors = Figures.of([done], plan.ask).errors
            raise PlanError(f"no request was answered: {', '.join(errors) or 'nothing came in time'}")
        return rate

    async def _probe(self, offered: float) -> Probe:
        number = len(self.probes) + 1  # prompts that no probe had before
        target = self.plan.targets[0]
        done = await measure(self.plan, Level(rate=offered), target, number, self.progress)
        figures = Figures.of([done], self.plan.ask)
        times = figures.first_token if self.plan.ask.streamed else figures.end_to_end
        window = done.end - done.begin
        kept_up = figures.rate * window >= KEPT_UP * figures.requests
        whole = figures.requests > 0 and figures.succeeded == figures.requests
        probe = Probe(
            offered,
            figures.rate,
            kept_up and whole and times is not None and times.p95 <= self.target,
            figures,
            None if times is None else times.p50,
            None if times is None else times.p95,
        )
        self.probes.append(probe)
        return probe

    def _nothing_holds(self) -> str:
        least = min(self.probes, key=lambda probe: probe.offered)
        p95 = "nothing was answered" if least.p95_seconds is None else f"the p95 is {least.p95_seconds:.3f} s"
        return (
            f"{self.plan.targets[0].name}: no rate holds {self.target:g} s at the 95th percentile;"
            f" at {least.offered:.2f} requests/s {p95}, {least.figures.requests - least.figures.succeeded}"
            f" of {least.figures.requests} failed"
        )
