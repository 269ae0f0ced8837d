"""Helm itself installs, upgrades, tests and removes the chart, at a double of Kubernetes' API server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import helm_python
import pytest

from tests.helm.charts import NAMESPACE, RELEASE, chart, quiet, values
from tests.helm.cluster import Cluster, running

SECONDS = 60


@pytest.fixture
def cluster() -> Iterator[tuple[Cluster, helm_python.Config]]:
    with connected() as found:
        yield found


@contextmanager
def connected(*groups: str) -> Iterator[tuple[Cluster, helm_python.Config]]:
    with (
        quiet(),
        running(*groups) as (cluster, kubeconfig),
        helm_python.Config(
            kubeconfig_content=kubeconfig,
            namespace=NAMESPACE,
            storage_driver="memory",
        ) as helm,
    ):
        yield cluster, helm


def install(helm: helm_python.Config, overrides: dict[str, Any]) -> None:
    release = helm.install(chart(), RELEASE, overrides, namespace=NAMESPACE, timeout=SECONDS)
    assert release["status"] == "deployed"


def secrets(double: Cluster) -> dict[str, Any]:
    return {name: item["data"] for name, item in double.of_kind("Secret").items()}


def test_it_is_installed_upgraded_and_removed(cluster: tuple[Cluster, helm_python.Config]) -> None:
    double, helm = cluster
    install(helm, {})
    assert double.of_kind("Deployment").keys() == {"lmaas-api"}
    assert double.of_kind("StatefulSet").keys() == {"lmaas-triton", "lmaas-postgresql"}
    assert double.of_kind("Job") == {}  # the database is of the release: the first façade makes its tables
    made = secrets(double)

    double.history.clear()
    changed = {"api": {"settings": {"maxInFlight": 7}}}
    assert helm.upgrade(chart(), RELEASE, changed, namespace=NAMESPACE, timeout=SECONDS)["revision"] == 2
    assert double.of_kind("ConfigMap")["lmaas-api"]["data"]["LMAAS_MAX_IN_FLIGHT"] == "7"
    assert secrets(double) == made

    helm.uninstall(RELEASE, timeout=SECONDS)
    assert {item["kind"] for item in double.objects.values()} == {"PersistentVolumeClaim", "Secret"}
    install(helm, {})  # goes on with what was left
    assert secrets(double) == made


def test_hooks_run_in_their_order(cluster: tuple[Cluster, helm_python.Config]) -> None:
    double, helm = cluster
    install(helm, {**values("external-database"), **values("models")})
    jobs = [place for place, (verb, kind, _) in enumerate(double.history) if (verb, kind) == ("apply", "Job")]
    assert double.history[jobs[0]] == ("apply", "Job", "lmaas-migrate")
    assert jobs[0] == 0
    assert len(jobs) == 3
    assert jobs[1] > double.history.index(("apply", "Deployment", "lmaas-api"))
    double.history.clear()
    helm.upgrade(chart(), RELEASE, values("external-database"), namespace=NAMESPACE, timeout=SECONDS)
    assert double.history.index(("apply", "Job", "lmaas-migrate")) == 0
    assert ("apply", "Deployment", "lmaas-api") in double.history
    helm.test(RELEASE, timeout=SECONDS)
    asked = {name for _, kind, name in double.history if kind == "Pod"}
    assert asked == {f"lmaas-test-{name}" for name in ("generate", "models", "servers")}


def test_openshift_chooses_the_users_of_pods() -> None:
    with connected("security.openshift.io/v1") as (double, helm):
        install(helm, {})
        pods = [*double.of_kind("Deployment").values(), *double.of_kind("StatefulSet").values()]
        assert len(pods) == 3
        for item in pods:
            security = item["spec"]["template"]["spec"]["securityContext"]
            assert security["runAsNonRoot"]
            assert not security.keys() & {"runAsUser", "runAsGroup", "fsGroup"}
