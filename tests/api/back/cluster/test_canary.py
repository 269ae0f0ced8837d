"""What a canary is judged by, and when it loses its traffic."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from api.back.cluster.canaries import MAX_WAITING, Copy, Observation, Rollbacks, Shadows, canaries_of
from api.back.cluster.canary import Essence, Watch, agreement, essence, labels, service_seconds
from api.back.cluster.deployment import Deployment
from api.back.cluster.records import HeadAnswer
from api.back.store.deployments import DeploymentStore
from api.back.store.records import CanaryPolicy, DeploymentRecord, DeploymentState
from api.errors import Overloaded, ServerFault, StoreUnavailable
from runtime.messages import (
    Candidate,
    Candidates,
    Choice,
    Generated,
    Score,
    Scored,
    ScoredToken,
    Timings,
    Usage,
)
from tests.api.back.cluster.deployments import deployed

pytestmark = pytest.mark.anyio
POLICY = CanaryPolicy(
    shadow=0.25, max_error_rate=0.1, max_latency_ratio=2.0, max_disagreement=0.5, min_requests=4
)


def watch(own: int = 4, others: int = 4, seconds: float = 1.0, failures: int = 0) -> Watch:
    """The others take 1 second each."""
    made = Watch(POLICY)
    for _ in range(others):
        made.others.succeeded(1.0)
    for _ in range(own - failures):
        made.own.succeeded(seconds)
    for _ in range(failures):
        made.own.failed()
    return made


def canary(state: DeploymentState = DeploymentState.READY) -> Deployment:
    made = deployed("a", 2, weight=10, state=state)
    made.record = dataclasses.replace(made.record, canary=POLICY)
    return made


class Recorded(DeploymentStore):
    """Keeps in memory what it is given; `failures` of the next writes come first."""

    def __init__(self) -> None:
        self.records: list[DeploymentRecord] = []
        self.written = asyncio.Event()
        self.failures: list[StoreUnavailable] = []

    async def update(self, record: DeploymentRecord) -> None:
        if self.failures:
            raise self.failures.pop()
        self.records.append(record)


def test_what_keeps_to_its_bounds_stays() -> None:
    for good in (watch(), watch(seconds=1.9), watch(own=20, failures=2), watch(own=3, failures=3)):
        assert good.fault() is None
    assert watch(own=4, others=3, seconds=9.0).fault() is None  # too little is known of the others


def test_each_bound_is_named_with_its_figures() -> None:
    assert watch(own=4, failures=1).fault() == "error rate 0.25, at most 0.1 above the 0 of the others"
    assert watch(seconds=2.5).fault() == "2.5 times the latency of the others, at most 2"
    worse = watch()
    for share in (0.1, 0.2, 0.5, 0.8):
        assert worse.fault() is None
        worse.compared(share)
    assert worse.fault() == "disagreement 0.6 with the others' answers, at most 0.5"
    found = worse.figures
    assert (found.requests, found.requests_of_others, found.compared, found.dropped) == (4, 4, 4, 0)


def test_an_error_that_others_have_as_well_is_not_the_canarys() -> None:
    both = watch(own=10, failures=3)
    for _ in range(2):
        both.others.failed()
    assert both.figures.error_rate_of_others == pytest.approx(1 / 3)
    assert both.fault() is None


def test_the_shadow_share_is_exact() -> None:
    copies = [watch().takes_copy() for _ in range(3)]
    assert copies == [False] * 3  # a quarter: the fourth of each watch
    one = watch()
    assert [one.takes_copy() for _ in range(8)] == [False, False, False, True] * 2


def test_answers_are_compared_by_what_is_decided() -> None:
    def piece(index: int, *tokens: int) -> Generated:
        return Generated(1, [Choice(index, "", list(tokens), None, None)], None, None)

    pieces = [piece(1, 5), piece(0, 1, 2), piece(0, 3)]
    assert essence(pieces, {"temperature": 0.0}) == [[1, 2, 3], [5]]
    assert essence(pieces, {}) is None  # by chance
    scores = [Score(1, [ScoredToken(0, "a", -2.0)]), Score(1, [ScoredToken(1, "b", -1.0)])]
    assert essence([Scored(scores, Usage.of(1))], {}) == [[1]]
    assert essence([Candidates([Candidate(7, "x", 0.9, -0.1)], Usage.of(1))], {}) == [[7]]
    assert labels([HeadAnswer([1.0], "good", None), HeadAnswer([1.0], "bad", None)]) == [["good"], ["bad"]]


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ([[1, 2, 3, 4]], [[1, 2, 3, 4]], 1.0),
        ([[1, 2, 3, 4]], [[1, 2, 9, 4]], 0.5),
        ([[1, 2]], [[1, 2, 3, 4]], 0.5),
        ([["a"], ["b"]], [["a"], ["c"]], 0.5),
        ([[1]], [[1], [2]], 0.5),
        ([[]], [[]], 1.0),
    ],
)
def test_agreement(one: Essence, other: Essence, share: float) -> None:
    assert agreement(one, other) == agreement(other, one) == share


def test_seconds_leave_out_the_queue_and_count_for_a_token() -> None:
    last = Generated(1, [], Usage.of(1, 10), Timings(1.0, 0.1, 0.1))
    assert service_seconds(3.0, [last]) == pytest.approx(0.2)
    assert service_seconds(3.0, [Candidates([], Usage.of(1))]) == 3.0


async def test_a_rollback_takes_the_weight_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    stable, tried, store = deployed("a", 1), canary(), Recorded()
    reports: list[tuple[str, str, DeploymentRecord, str]] = []

    async def report(*change: Any) -> None:
        reports.append(change)
        store.written.set()

    rollbacks = Rollbacks({"a-1": stable, "a-2": tried}, store, report)
    store.failures.append(StoreUnavailable("locked"))
    monkeypatch.setattr("api.back.cluster.canaries.backoff_seconds", lambda *_: 0.0)
    tried.watch = watch(seconds=3.0)
    rollbacks.judge(tried)
    record = tried.status
    unrecorded = [tried.unrecorded]  # until it is written, no older record may undo it
    assert (record.traffic_weight, record.canary, record.figures) == (0, None, None)
    (event,) = tried.record.events
    assert (event.kind, event.reason) == ("rolled-back", "3 times the latency of the others, at most 2")
    assert event.figures["latency_ratio"] == 3.0
    assert rollbacks.counts == {"a": 1}
    rollbacks.judge(tried)  # it is no canary any more
    assert rollbacks.counts == {"a": 1}
    await asyncio.wait_for(store.written.wait(), 5)
    assert store.records[0].events == (event,)
    assert [*unrecorded, tried.unrecorded] == [True, False]
    assert reports == [("rollback", "rollback", tried.record, "int8")]
    await rollbacks.close()


async def unused(*change: Any) -> None:
    raise AssertionError(change)


async def test_a_canary_without_another_deployment_keeps_its_traffic() -> None:
    tried = canary()
    tried.watch = watch(seconds=3.0)
    for others in ({}, {"a-1": deployed("a", 1, weight=0)}, {"b-1": deployed("b", 1)}):
        rollbacks = Rollbacks({**others, "a-2": tried}, Recorded(), unused)
        rollbacks.judge(tried)
        assert tried.record.traffic_weight == 10


async def test_requests_count_for_the_canaries_that_they_concern() -> None:
    stable, tried, other = deployed("a", 1), canary(), deployed("b")
    every = [stable, tried, other]
    assert canaries_of(every, other) == []
    judged: list[Any] = []
    shadows = Shadows(judged.append)

    async def unsent(*_: Any) -> tuple[Essence | None, float]:
        raise AssertionError("no worker runs while this test does not wait")

    for item in (stable, tried):
        observation = Observation(item, canaries_of(every, item), shadows, judged.append)
        observation.failed()
        for _ in range(4):
            observation.succeeded(1.0, unsent, lambda: None)
    assert tried.watch is not None
    found = tried.watch.figures
    assert (found.requests, found.requests_of_others) == (5, 5)
    assert (found.error_rate, found.error_rate_of_others) == (0.2, 0.2)
    assert judged == [tried] * 10
    assert shadows._waiting.qsize() == 1
    await shadows.close()


def test_a_canary_that_is_being_loaded_has_no_figures() -> None:
    stable, tried = deployed("a", 1), canary(state=DeploymentState.LOADING)
    assert canaries_of([stable, tried], stable) == []
    for state in (DeploymentState.READY, DeploymentState.UNHEALTHY):
        tried.replicas[0].become(state)
        assert canaries_of([stable, tried], stable) == [tried]


async def test_copies_are_compared_and_those_without_room_dropped() -> None:
    tried = canary()
    tried.watch = Watch(POLICY)
    done = asyncio.Event()
    outcomes = iter([None, ServerFault("broken"), Overloaded("full")])

    async def send(*_: Any) -> tuple[Essence | None, float]:
        outcome = next(outcomes, None)
        if outcome is not None:
            raise outcome
        return [[1, 2]], 0.5

    def judge(deployment: Deployment) -> None:
        assert tried.watch is not None
        if len(tried.watch.own) == MAX_WAITING - 1:  # one was overloaded
            done.set()

    shadows = Shadows(judge)
    for _ in range(MAX_WAITING + 3):
        shadows.offer(Copy(tried, send, [[1, 3]]))
    assert tried.watch.dropped == 3
    await asyncio.wait_for(done.wait(), 5)
    found = tried.watch.figures
    assert (found.dropped, found.compared, found.disagreement) == (4, MAX_WAITING - 2, 0.5)
    assert found.error_rate == pytest.approx(1 / (MAX_WAITING - 1))
    await shadows.close()
