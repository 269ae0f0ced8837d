"""The search for a capacity, on a queue whose capacity is known."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from perf.deployed import Deployed, check_alone
from perf.errors import PlanError
from perf.http import capacity as search
from perf.http.ask import Task
from perf.http.capacity import TARGETS, Found, capacity
from perf.http.figures import Round
from perf.http.load import intended_times
from perf.http.outcome import Outcome
from perf.http.plan import Level, LoadTarget, Plan
from perf.http.progress import Progress
from runtime.contract import Kind

HEAD = Deployed("dep-1", "sentiment", 1, "int8", Kind.CLASSIFIER, Task.CLASSIFY)
LM = Deployed("dep-2", "stories", 1, "int8", Kind.LM, Task.GENERATE)


@dataclass
class Queue:
    """One at a time, `service` seconds each; of task generate with four tokens, the first at the beginning.

    Answers fail while more than `room` wait. After `healthy` probes everything takes twice as long.
    """

    service: float
    room: float = 1e9
    healthy: int = 10_000
    least: float = 0.0  # seconds that everything takes besides

    async def measure(
        self, plan: Plan, level: Level, target: LoadTarget, number: int, progress: Progress
    ) -> Round:
        extent = plan.extent
        if level.rate is None:
            done = [self._outcome(plan, time * self.service, 0) for time in range(int(5 / self.service))]
            return Round(0, 5, done, [], 0.1, 5, 1)
        service = self.service * (1 if number <= self.healthy else 2)
        free, outcomes = 0.0, []
        for time in intended_times(level.rate, plan.arrivals, f"{plan.seed}/{number}", extent):
            wait = max(0.0, free - time)
            failed = wait > self.room * service
            outcomes.append(self._outcome(plan, time, wait, "429 overloaded" if failed else None))
            free = free if failed else time + wait + service
        begin = extent.warmup
        measured = [outcome for outcome in outcomes if outcome.intended >= begin]
        others = [outcome for outcome in outcomes if outcome.intended < begin]
        return Round(begin, begin + extent.seconds, measured, others, 0.1, extent.seconds, 1)

    def _outcome(self, plan: Plan, time: float, wait: float, error: str | None = None) -> Outcome:
        first = time + wait + self.least
        end = first + self.service
        arrivals = [(first, 1.0), (end, 3.0)] if plan.ask.task is Task.GENERATE and not error else []
        return Outcome(time, time, end, error, arrivals)


def found(
    queue: Queue, deployed: Deployed, monkeypatch: pytest.MonkeyPatch, target: float | None = None
) -> Found:
    monkeypatch.setattr(search, "measure", queue.measure)
    return capacity(
        "http://127.0.0.1:1", deployed, command="lmaas perf capacity", target_seconds=target, seconds=20
    )


def test_just_below_what_a_queue_can_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    done = found(Queue(0.01), HEAD, monkeypatch)
    held = done.capacity
    assert 85 < done.probes[-1].answered < 100  # 100 a second would be never idle
    assert held.requests_per_second == done.probes[-1].offered
    assert held.p95_seconds <= held.target_seconds == TARGETS[Task.CLASSIFY]
    assert held.tokens_per_second is None
    assert done.probes[-1].holds
    assert done.probes[-1].figures.requests > 1.5 * done.probes[-2].figures.requests  # twice as long


def test_a_tighter_target_is_a_smaller_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    loose = found(Queue(0.01), HEAD, monkeypatch, target=0.5).capacity
    tight = found(Queue(0.01), HEAD, monkeypatch, target=0.02).capacity
    assert tight.requests_per_second < 0.7 * loose.requests_per_second
    assert tight.p95_seconds <= 0.02


def test_streams_are_held_to_their_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    held = found(Queue(0.02), LM, monkeypatch).capacity
    assert held.p95_seconds <= held.target_seconds == 0.5
    assert held.tokens_per_second == pytest.approx(4 * held.requests_per_second, rel=0.05)


def test_a_rate_with_refusals_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = found(Queue(0.01), HEAD, monkeypatch).capacity
    narrow = found(Queue(0.01, room=5), HEAD, monkeypatch).capacity
    assert narrow.requests_per_second < roomy.requests_per_second


def test_what_does_not_hold_again_is_stepped_back_from(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = len(found(Queue(0.01), HEAD, monkeypatch).probes)
    held = found(Queue(0.01, healthy=probes - 1), HEAD, monkeypatch).capacity
    assert 30 < held.requests_per_second < 50


def test_where_nothing_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlanError, match=r"no rate holds 0\.2 s .* the p95 is 0\.3"):
        found(Queue(0.01, least=0.3), HEAD, monkeypatch)


def test_requests_that_would_reach_several_deployments() -> None:
    check_alone([HEAD, LM], HEAD)
    with pytest.raises(PlanError, match="dep-1, dep-9"):
        check_alone([HEAD, LM, Deployed("dep-9", "sentiment", 2, "fp32", Kind.CLASSIFIER, Task.NLU)], HEAD)
