"""Which deployment a request goes to, and which of its replicas."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.back.cluster import router
from api.back.store.records import DeploymentState
from api.errors import InvalidInput, NotFound, Unavailable
from runtime.contract import Kind
from tests.api.back.cluster.deployments import deployed, server


def test_a_version_is_found_or_not_deployed() -> None:
    every = [deployed("a", 1), deployed("a", 3)]
    assert router.choose_version(every, "a", 3) is every[1]
    for model, version, said, field in (("a", 2, "'a' version 2", "version"), ("b", 1, "'b'", "model")):
        with pytest.raises(NotFound, match=f"{said} is not deployed") as raised:
            router.choose_version(every, model, version)
        assert [error.field for error in raised.value.errors] == [field]


@given(weights=st.lists(st.integers(0, 100), min_size=1, max_size=4).filter(any))
def test_traffic_follows_the_weights_exactly(weights: list[int]) -> None:
    every = [deployed("a", number, weight=weight) for number, weight in enumerate(weights, 1)]
    counts = Counter(router.choose_of_model(every, "a").record.version for _ in range(sum(weights)))
    assert [counts[number] for number in range(1, len(weights) + 1)] == weights


def test_a_deployment_whose_last_replica_is_unloaded_stays_deployed() -> None:
    """By the autoscaler, or with its pod: a request then gets 503 with Retry-After, and wakes it."""
    for replicas, state in ((0, DeploymentState.IDLE), (1, DeploymentState.LOADING)):
        alone = deployed("a", 1)
        alone.record = dataclasses.replace(alone.record, replicas=replicas)
        alone.replicas[0].become(DeploymentState.UNLOADING)
        assert alone.state is alone.status.state is state
        with pytest.raises(Unavailable, match=f"a/1 is {state.value}"):
            router.choose_of_model([alone], "a").require_ready()
        assert alone.traffic.missed == 1
        alone.leave()
        assert alone.state is DeploymentState.UNLOADING


def test_what_heals_gets_no_traffic() -> None:
    every = [deployed("a", 1, state=DeploymentState.UNHEALTHY), deployed("a", 2)]
    assert {router.choose_of_model(every, "a").record.version for _ in range(5)} == {2}
    alone = every[:1]
    with pytest.raises(Unavailable, match="a/1 is unhealthy"):
        router.choose_of_model(alone, "a").require_ready()


def test_a_model_without_traffic_or_deployment() -> None:
    with pytest.raises(Unavailable, match="weight 0"):
        router.choose_of_model([deployed("a", weight=0)], "a")
    with pytest.raises(NotFound, match="'b' is not deployed") as raised:
        router.choose_of_model([deployed("a")], "b")
    assert [error.field for error in raised.value.errors] == ["model"]


def test_without_a_model_the_oldest_of_the_kind_serves() -> None:
    language, first = deployed("lm"), deployed("first", kind=Kind.CLASSIFIER, labels=("a", "b"))
    second = deployed("second", kind=Kind.CLASSIFIER, labels=("c",))
    every = [language, first, second]
    choose = router.choose_of_kind
    assert choose(every, Kind.CLASSIFIER, Kind.LM, None) is first
    assert choose(every, Kind.CLASSIFIER, Kind.LM, lambda target: "c" in target.labels) is second
    assert choose(every, Kind.NLU, Kind.LM, None) is language
    with pytest.raises(NotFound, match="kind nlu that"):
        choose(every, Kind.NLU, None, None)


def test_another_kind_names_the_field() -> None:
    router.require_kind(deployed("a"), Kind.CLASSIFIER, Kind.LM)
    with pytest.raises(InvalidInput, match="'a' is of kind lm; this task needs kind nlu") as caught:
        router.require_kind(deployed("a"), Kind.NLU, None)
    assert caught.value.errors[0].field == "model"


def test_the_replica_with_the_least_in_flight_is_next() -> None:
    deployment = deployed("a", servers=[server(0), server(1), server(2)])
    first, second, third = deployment.replicas
    first.in_flight, second.in_flight, third.in_flight = 2, 1, 3
    assert router.choose_replica(deployment) is second
    second.in_flight = 4
    assert router.choose_replica(deployment) is first


def test_idle_replicas_take_turns() -> None:
    deployment = deployed("a", servers=[server(0), server(1)])
    chosen = []
    for _ in range(4):
        replica = router.choose_replica(deployment)
        with replica.serving():
            pass
        chosen.append(replica.server.name)
    assert chosen == ["triton-0", "triton-1"] * 2


def test_a_replica_that_is_away_is_the_last_choice() -> None:
    down, other = server(0, up=False), server(1)
    deployment = deployed("a", servers=[down, other])
    first, second = deployment.replicas
    second.in_flight = 100
    assert router.choose_replica(deployment) is second
    second.become(DeploymentState.UNHEALTHY)
    assert router.choose_replica(deployment) is first  # its own client says why it does not answer
    first.become(DeploymentState.UNHEALTHY, "its server is gone")
    with pytest.raises(Unavailable, match="a/1 is unhealthy: its server is gone"):
        router.choose_replica(deployment)


def test_a_request_that_finds_its_replica_away_sends_the_next_one_elsewhere() -> None:
    deployment = deployed("a", servers=[server(0), server(1)])
    first, second = deployment.replicas
    with pytest.raises(Unavailable), first.serving():
        raise Unavailable("its process died")
    assert (first.in_flight, first.suspect.is_set()) == (0, True)
    assert [router.choose_replica(deployment) for _ in range(3)] == [second] * 3
