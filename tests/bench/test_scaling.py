"""The autoscaler under curves of arrivals: it settles, in time, and refuses nothing in a steady state."""

from __future__ import annotations

import pytest

from api.back.cluster.autoscaler import Autoscaler, CapacityEstimate, Observation, ScalingPolicy
from bench.scaling import INTERVAL, Curve, Run, Simulation, Subject, daily, ramp, recorded, spike, step

CAPACITY = Subject().capacity
POLICY = ScalingPolicy(minimum=1, maximum=20)
SEEDS = range(3)
IN_TIME = Subject().load_seconds + 4 * INTERVAL  # seconds from a change of the load to enough replicas


def simulate(
    curve: Curve,
    seconds: int,
    seed: int,
    policy: ScalingPolicy = POLICY,
    *,
    measured: float | None = CAPACITY,
    replicas: int = 1,
) -> Run:
    return Simulation(policy, measured=measured, replicas=replicas, seed=seed).run(curve, seconds)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_step_is_followed_in_time_and_then_nothing_changes(seed: int) -> None:
    run = simulate(step(5, 50, at=600), 3600, seed)
    assert all(change > 0 for change in run.changes)
    enough = next(second for second, state in enumerate(run.seconds) if state.replicas * CAPACITY > 50)
    assert 600 < enough <= 600 + IN_TIME
    settled = run.seconds[600 + 300].asked
    assert settled in (7, 8, 9)  # 50 / (10 x 0.7) = 7.1
    assert run.seconds[-1].asked - settled in (0, 1)
    assert run.refused(600 + IN_TIME) == 0
    assert not run.refused(0, 600)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_steady_load_changes_nothing_and_is_never_refused(seed: int) -> None:
    for rate in (2, 20, 37, 90):
        run = simulate(step(rate, rate, at=0), 7200, seed, replicas=round(rate / 7) + 1)
        assert len(run.changes) <= 2
        assert run.turns <= 1
        assert run.refused() == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ramp_is_followed_up_and_down_without_a_refusal(seed: int) -> None:
    run = simulate(ramp(5, 80, 600, 2400), 4000, seed)
    assert run.refused() == 0
    assert all(change > 0 for change in run.changes)
    down = simulate(ramp(80, 5, 600, 2400), 4000, seed, replicas=12)
    assert down.refused() == 0
    assert sum(change > 0 for change in down.changes) <= 1
    assert down.seconds[-1].asked <= 2


def test_a_day_is_followed_with_fewer_replicas_than_its_peak_needs() -> None:
    run = simulate(daily(2, 100), 86_400, 1)
    assert run.refused() == 0
    most = max(second.replicas for second in run.seconds)
    assert 14 <= most <= 17
    assert run.replica_seconds < 0.7 * most * len(run.seconds)
    assert run.turns <= 4, "up in the morning, down in the evening"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_spike_is_answered_and_its_replicas_leave_after_the_stabilisation_time(seed: int) -> None:
    run = simulate(spike(5, 60, at=600, seconds=60), 2400, seed)
    assert run.refused(600 + IN_TIME) == 0, "only until the new replicas answer"
    asked = [second.asked for second in run.seconds]
    most = asked.index(max(asked))
    leaving = next(second for second in range(most, 2400) if asked[second] < asked[most])
    assert leaving >= 660 + POLICY.stabilisation_seconds - 4 * INTERVAL
    assert run.turns == 1
    assert run.seconds[-1].asked <= 2


@pytest.mark.parametrize("mean", [8.0, 40.0])
def test_a_recorded_hour_is_followed(mean: float) -> None:
    run = simulate(recorded(mean), 3500, 1)
    assert run.refused() == 0
    assert run.turns <= 4
    needed = mean / (CAPACITY * POLICY.utilisation)
    assert run.replica_seconds < (1.6 * needed + 1) * len(run.seconds)


@pytest.mark.parametrize("measured", [2 * CAPACITY, CAPACITY / 2, None])
def test_a_wrong_figure_is_corrected_by_the_traffic(measured: float | None) -> None:
    run = simulate(ramp(5, 120, 300, 600), 3600, 1, measured=measured)
    assert run.refused(1200) == 0
    if measured != CAPACITY / 2:  # replicas that are never full show only that they can do as much as they do
        assert run.estimate == pytest.approx(CAPACITY, rel=0.3)
    assert run.seconds[-1].replicas * CAPACITY > 120


def test_without_arrivals_nothing_runs_where_the_minimum_is_zero() -> None:
    policy = ScalingPolicy(minimum=0, maximum=4)
    run = simulate(spike(0, 5, at=1200, seconds=300), 3600, 1, policy)
    asked = [second.asked for second in run.seconds]
    assert asked[:300] == [1] * 300, "the stabilisation time has not passed"
    assert asked[310:1200] == [0] * 890
    assert max(asked[1200:1210]) >= 1, "at the first observation of a request"
    assert asked[-1] == 0


def test_a_replica_that_loads_longer_than_the_stabilisation_time_is_kept_when_it_answers() -> None:
    scaler = Autoscaler(ScalingPolicy(0, 1, stabilisation_seconds=10.0), CapacityEstimate(4))

    def asked(time: float, replicas: int, arrivals: int, current: int) -> int:
        return scaler.decide(Observation(time, replicas, arrivals, 0, 0), current).replicas

    assert asked(0.0, replicas=0, arrivals=1, current=0) == 1
    assert asked(30.0, replicas=0, arrivals=0, current=0) == 0, "it still loads"
    assert asked(31.0, replicas=1, arrivals=0, current=1) == 1
    assert asked(40.0, replicas=1, arrivals=0, current=1) == 1
    assert asked(41.0, replicas=1, arrivals=0, current=1) == 0


def test_a_deployment_that_loads_longer_than_the_stabilisation_time_is_kept() -> None:
    scaler = Autoscaler(ScalingPolicy(0, 1, stabilisation_seconds=10.0), CapacityEstimate(4))
    seen = [(0.0, 0), (30.0, 0), (31.0, 1), (40.0, 1), (41.0, 1)]
    asked = [scaler.decide(Observation(time, replicas, 0, 0, 0), 1).replicas for time, replicas in seen]
    assert asked == [1, 1, 1, 1, 0]


def test_a_decision_says_why() -> None:
    scaler = Autoscaler(ScalingPolicy(1, 3), CapacityEstimate(32, 5.0, "measured by lmaas perf capacity"))
    scaler.decide(Observation(0.0, 1, 0, 0, 0), 1)
    decision = scaler.decide(Observation(10.0, 1, 120, 0, 120), 1)
    assert (decision.replicas, decision.wanted, decision.waiting) == (3, 4, 88)
    assert decision.utilisation == pytest.approx(12 / 5)
    assert decision.reason == (
        "12.0 requests/s arrive and 88 wait; a replica finishes 5.0/s (measured by lmaas perf capacity); "
        "at a utilisation of 70% that needs 4 replicas; 1 missing, as the maximum is 3"
    )


def test_without_a_figure_the_places_of_the_replicas_count() -> None:
    scaler = Autoscaler(ScalingPolicy(1, 9), CapacityEstimate(32))
    assert scaler.decide(Observation(0.0, 1, 100, 0, 100), 1).replicas == 5  # 100 / (32 x 0.7) = 4.5
    decision = scaler.decide(Observation(5.0, 5, 0, 0, 100), 5)
    assert decision.capacity is None
    assert "what a replica finishes is not measured; 32 requests at once fill a replica" in decision.reason


def test_the_maximum_is_kept_and_what_is_missing_is_said() -> None:
    run = simulate(step(5, 100, at=60), 300, 1, ScalingPolicy(minimum=2, maximum=4))
    assert {second.asked for second in run.seconds} == {2, 4} | {run.seconds[0].asked}
    assert "missing, as the maximum is 4" in run.reasons[-1]
