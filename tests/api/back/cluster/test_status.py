"""What the cluster reports: a deployment is ready while one replica answers."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from api.back.cluster.deployment import Deployment
from api.back.cluster.records import Readiness
from api.back.cluster.status import LATE_PROBES, readiness, server_record
from api.back.cluster.supervisor import Supervisor
from api.back.settings import BackSettings
from api.back.store.records import DeploymentState
from tests.api.back.cluster.deployments import deployed, server

SETTINGS = BackSettings(home=Path("nowhere"))
ALLOWED = LATE_PROBES * (SETTINGS.probe_interval_seconds + SETTINGS.probe_timeout_seconds)


def answering(servers: list[Supervisor]) -> Deployment:
    deployment = deployed("a", servers=servers)
    deployment.expected = True
    for replica in deployment.replicas:
        replica.answered()
    return deployment


def report(deployment: Deployment, servers: list[Supervisor]) -> Readiness:
    return readiness([deployment], servers, SETTINGS)


def shared(number: int) -> Supervisor:
    """A server that other façades use, too."""
    made = server(number)
    made.driver.shared = True  # type: ignore[misc]
    return made


def test_a_facade_stays_in_the_service_while_another_one_would_answer_no_more() -> None:
    for servers, enough in (([shared(0), shared(1)], True), ([shared(0), server(1)], False)):
        well, ill = answering(servers), answering(servers)
        for replica in ill.replicas:
            replica.become(DeploymentState.UNHEALTHY, "its process died")
        found = readiness([well, ill], servers, SETTINGS)
        assert (found.ready, found.serves) == (False, enough)
        assert not readiness([ill], servers, SETTINGS).serves, "no deployment answers"


def test_a_facade_that_starts_tries_every_deployment_before_it_serves() -> None:
    servers = [shared(0)]
    well, coming = answering(servers), deployed("b", servers=servers, state=DeploymentState.LOADING)
    coming.expected = True
    assert not readiness([well, coming], servers, SETTINGS).serves
    coming.replicas[0].become(DeploymentState.FAILED, "its file is damaged")
    assert readiness([well, coming], servers, SETTINGS).serves
    coming.replicas[:] = deployed("b", servers=servers, state=DeploymentState.LOADING).replicas  # it moves
    assert readiness([well, coming], servers, SETTINGS).serves


def test_a_deployment_that_a_request_wakes_is_no_fault() -> None:
    servers = [server(0)]
    woken = deployed("b", servers=servers, state=DeploymentState.LOADING)
    woken.expected = True
    assert not readiness([woken], servers, SETTINGS).ready
    woken.record = dataclasses.replace(woken.record, replicas=0)
    assert readiness([woken], servers, SETTINGS).ready


def test_all_is_well() -> None:
    servers = [server(0), server(1)]
    found = report(answering(servers), servers)
    assert (found.ready, found.reasons, found.warnings) == (True, [], [])
    assert 0 <= (found.probes["a-1"] or 0) < 1


def test_one_replica_that_is_away_is_a_warning() -> None:
    servers = [server(0, up=False), server(1)]
    deployment = answering(servers)
    deployment.replicas[0].become(DeploymentState.UNHEALTHY, "its server is gone")
    found = report(deployment, servers)
    assert (found.ready, found.reasons) == (True, [])
    assert found.warnings == ["triton-0 is starting", "a/1 on triton-0 is unhealthy: its server is gone"]
    assert deployment.status.servers == {
        "triton-0": DeploymentState.UNHEALTHY,
        "triton-1": DeploymentState.READY,
    }


def test_the_last_replica_that_falls_silent_is_the_reason() -> None:
    servers = [server(0), server(1)]
    deployment = answering(servers)
    long_ago = time.monotonic() - ALLOWED - 1
    deployment.replicas[0].last_good = long_ago
    found = report(deployment, servers)
    assert (found.ready, found.warnings) == (True, [f"a/1 on triton-0 answered no probe for {ALLOWED:g} s"])
    deployment.replicas[1].last_good = long_ago
    found = report(deployment, servers)
    assert (found.ready, found.warnings) == (False, [])
    assert found.reasons == [f"a/1 (a-1) answered no probe for {ALLOWED:g} s"]


def test_without_any_server_nothing_is_ready() -> None:
    servers = [server(0, up=False), server(1, up=False)]
    found = readiness([], servers, SETTINGS)
    assert (found.ready, found.reasons) == (False, ["triton-0 is starting", "triton-1 is starting"])


def test_what_has_never_served_is_not_waited_for() -> None:
    servers = [server(0)]
    deployment = deployed("a", state=DeploymentState.LOADING, servers=servers)
    assert report(deployment, servers).ready
    deployment.expected = True
    assert report(deployment, servers).reasons == ["a/1 (a-1) is loading"]
    deployment.leave()
    assert report(deployment, servers).ready


def test_a_server_reports_its_load() -> None:
    place = server(1)
    (replica,) = answering([place]).replicas
    with replica.serving():
        record = server_record(place, [replica])
    assert (record.name, record.models, record.outstanding) == ("triton-1", ["a/1"], 1)
    assert record.last_probe is not None
    assert server_record(place, [replica]).outstanding == 0
