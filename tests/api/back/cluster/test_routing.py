"""Which deployment a request goes to."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.back.cluster import routing
from api.back.store.records import DeploymentState
from api.errors import InvalidInput, NotFound, Unavailable
from runtime.contract import Kind
from tests.api.back.cluster.live_deployments import live


def test_a_version_is_found_or_not_deployed() -> None:
    deployed = [live("a", 1), live("a", 3)]
    assert routing.choose_version(deployed, "a", 3) is deployed[1]
    for model, version, said, field in (("a", 2, "'a' version 2", "version"), ("b", 1, "'b'", "model")):
        with pytest.raises(NotFound, match=f"{said} is not deployed") as raised:
            routing.choose_version(deployed, model, version)
        assert [error.field for error in raised.value.errors] == [field]


@given(weights=st.lists(st.integers(0, 100), min_size=1, max_size=4).filter(any))
def test_traffic_follows_the_weights_exactly(weights: list[int]) -> None:
    deployed = [live("a", number, weight=weight) for number, weight in enumerate(weights, 1)]
    counts = Counter(routing.choose_of_model(deployed, "a").record.version for _ in range(sum(weights)))
    assert [counts[number] for number in range(1, len(weights) + 1)] == weights


def test_what_heals_gets_no_traffic() -> None:
    deployed = [live("a", 1, state=DeploymentState.UNHEALTHY), live("a", 2)]
    assert {routing.choose_of_model(deployed, "a").record.version for _ in range(5)} == {2}
    alone = deployed[:1]
    with pytest.raises(Unavailable, match="a/1 is unhealthy"):
        routing.choose_of_model(alone, "a").require_ready()


def test_a_model_without_traffic_or_deployment() -> None:
    with pytest.raises(Unavailable, match="weight 0"):
        routing.choose_of_model([live("a", weight=0)], "a")
    with pytest.raises(NotFound, match="'b' is not deployed") as raised:
        routing.choose_of_model([live("a")], "b")
    assert [error.field for error in raised.value.errors] == ["model"]


def test_without_a_model_the_oldest_of_the_kind_serves() -> None:
    language, first = live("lm"), live("first", kind=Kind.CLASSIFIER, labels=("a", "b"))
    second = live("second", kind=Kind.CLASSIFIER, labels=("c",))
    deployed = [language, first, second]
    choose = routing.choose_of_kind
    assert choose(deployed, Kind.CLASSIFIER, Kind.LM, None) is first
    assert choose(deployed, Kind.CLASSIFIER, Kind.LM, lambda target: "c" in target.labels) is second
    assert choose(deployed, Kind.NLU, Kind.LM, None) is language
    with pytest.raises(NotFound, match="kind nlu that"):
        choose(deployed, Kind.NLU, None, None)


def test_another_kind_names_the_field() -> None:
    routing.require_kind(live("a"), Kind.CLASSIFIER, Kind.LM)
    with pytest.raises(InvalidInput, match="'a' is of kind lm; this task needs kind nlu") as caught:
        routing.require_kind(live("a"), Kind.NLU, None)
    assert caught.value.errors[0].field == "model"
