"""Metrics of the cluster as it is when somebody asks: servers, deployments, replicas, sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.back.cluster.manager import ClusterManager
from api.back.cluster.records import ServerState
from api.back.store.records import DeploymentState


class ClusterCollector(Collector):
    def __init__(self, cluster: ClusterManager) -> None:
        self._cluster = cluster

    def collect(self) -> Iterable[Metric]:
        deployments = self._cluster.deployments()
        by_state = Counter(each.state.value for each in deployments)
        replicas = Counter(state.value for each in deployments for state in each.servers.values())
        servers = self._cluster.servers()
        yield _by_state("lmaas_deployments", "Deployments, by state.", DeploymentState, by_state)
        yield _by_state("lmaas_replicas", "Replicas of all deployments, by state.", DeploymentState, replicas)
        server_states = Counter(server.state.value for server in servers)
        yield _by_state("lmaas_servers", "Model servers, by state.", ServerState, server_states)
        in_flight = _gauge(
            "lmaas_server_requests_in_flight", "Requests of callers at a model server.", "server"
        )
        sessions = _gauge("lmaas_server_sessions", "Open sessions with the models of a server.", "server")
        restarts = CounterMetricFamily(
            "lmaas_server_restarts", "How often a model server was started again.", labels=["server"]
        )
        for server in servers:
            in_flight.add_metric([server.name], server.outstanding)
            sessions.add_metric([server.name], server.sessions)
            restarts.add_metric([server.name], server.restarts)
        yield from (in_flight, sessions, restarts)
        yield self._answer_ages()
        yield from self._scaling()

    def _scaling(self) -> Iterable[Metric]:
        """On `lmaas_wanted_replicas` an autoscaler of Kubernetes acts."""
        of = ("model", "version")
        wanted = _gauge("lmaas_wanted_replicas", "Replicas that the present load of a deployment needs.", *of)
        arrivals = _gauge("lmaas_arrival_rate", "Requests per second that come for a deployment.", *of)
        capacity = _gauge("lmaas_replica_capacity", "Requests per second that one replica finishes.", *of)
        used = _gauge("lmaas_utilisation_ratio", "Arrivals as a share of what the replicas can do.", *of)
        for each in self._cluster.capacity():
            labels = [each.model, str(each.version)]
            wanted.add_metric(labels, each.wanted)
            arrivals.add_metric(labels, each.arrival_rate)
            if each.capacity is not None:
                capacity.add_metric(labels, each.capacity)
            if each.utilisation is not None:
                used.add_metric(labels, each.utilisation)
        return wanted, arrivals, capacity, used

    def _answer_ages(self) -> Metric:
        ages = _gauge(
            "lmaas_deployment_answer_age_seconds",
            "Time since a deployment last answered, a caller or a probe.",
            "model",
            "version",
        )
        probes = self._cluster.readiness().probes
        for each in self._cluster.deployments():
            if (age := probes.get(each.id)) is not None:
                ages.add_metric([each.model, str(each.version)], age)
        return ages


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _by_state(
    name: str, text: str, states: type[DeploymentState] | type[ServerState], found: Counter[str]
) -> GaugeMetricFamily:
    """Each state has a sample, so that none disappears when its number becomes 0."""
    metric = _gauge(name, text, "state")
    for state in states:
        metric.add_metric([state.value], found[state.value])
    return metric
