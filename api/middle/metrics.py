"""The façade's own Prometheus metrics; those named `lmaas_engine_*` and `lmaas_head_*` come from Triton.

No label holds what a caller wrote: routes are patterns, and a model's name counts once it was deployed.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.back.cluster.manager import ClusterManager
from api.back.cluster.records import ServerState
from api.back.store.records import DeploymentState
from runtime.messages import Timings, Usage

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second line per series that no one reads

# Small models answer in milliseconds; the usual buckets, from 5 or 300 ms, would put all into the first.
SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
)  # fmt: skip


NO_MODEL = "none"  # of a task that no deployment was chosen for


class Metrics:
    """One registry per application, so that two in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files
        self._declare_http()
        self._declare_tasks()
        self._declare_queue()
        self._declare_engine()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=SECONDS)

    def _declare_http(self) -> None:
        self.requests = self._counter(
            "lmaas_http_requests_total", "HTTP requests answered.", "method", "route", "status"
        )
        self.request_seconds = self._histogram(
            "lmaas_http_request_duration_seconds",
            "From the request's head to its last byte.",
            "method",
            "route",
        )
        self.requests_open = self._gauge("lmaas_http_requests_in_flight", "HTTP requests under way.")
        self.upload_bytes = self._counter(
            "lmaas_http_upload_bytes_total", "Bytes of model archives received."
        )
        self.refusals = self._counter(
            "lmaas_http_refusals_total",
            "Requests that may be sent again later (429, 503, 507), by reason.",
            "route",
            "reason",
        )

    def _declare_tasks(self) -> None:
        self.outcomes = self._counter(
            "lmaas_task_outcomes_total", "Tasks closed, by outcome.", "type", "outcome"
        )
        self.task_seconds = self._histogram(
            "lmaas_task_duration_seconds", "From a task's arrival to its outcome.", "type", "model"
        )
        self.in_flight = self._gauge("lmaas_task_in_flight", "Tasks running.", "type")
        self.first_token = self._histogram(
            "lmaas_task_time_to_first_token_seconds",
            "From a streamed task's arrival to its first text.",
            "type",
            "model",
        )
        self.inter_token = self._histogram(
            "lmaas_task_inter_token_latency_seconds",
            "Between two pieces of text of a streamed task.",
            "type",
            "model",
        )

    def _declare_queue(self) -> None:
        """What runs later than it was sent: asynchronous tasks, batches, records, callbacks."""
        self.queued = self._gauge("lmaas_task_queued", "Asynchronous tasks waiting.")
        self.queue_age = self._gauge(
            "lmaas_task_queue_age_seconds", "How long the asynchronous task has waited that waits longest."
        )
        self.queue_seconds = self._histogram(
            "lmaas_task_queue_seconds", "From an asynchronous task's arrival to its start.", "type"
        )
        self.batches_open = self._gauge("lmaas_batch_open", "Batches that this façade works on.")
        self.batch_lines = self._counter("lmaas_batch_lines_total", "Lines of batches answered.", "outcome")
        self.batch_gave_way = self._counter(
            "lmaas_batch_gave_way_total", "Requests of batches that were interrupted for tasks, to run again."
        )
        self.store_waiting = self._gauge("lmaas_store_waiting", "Task records that wait to be written.")
        self.store_failing = self._gauge(
            "lmaas_store_failing", "1 while task records cannot be written: submissions are refused."
        )
        self.callbacks = self._counter("lmaas_callbacks_total", "Attempts to send a callback.", "outcome")

    def _declare_engine(self) -> None:
        """What the engine reports for a request, at its end: see `count_request`."""
        self.prompt_tokens = self._counter("lmaas_task_prompt_tokens_total", "Prompt tokens read.", "model")
        self.completion_tokens = self._counter(
            "lmaas_task_generation_tokens_total", "Tokens generated.", "model"
        )
        self.request_seconds_of = {
            part: self._histogram(f"lmaas_request_{part}_time_seconds", text, "model")
            for part, text in (
                ("queue", "How long a request waited in the engine."),
                ("prefill", "From a request's first step to its first token."),
                ("decode", "From a request's first token to its last."),
            )
        }
        self.time_per_token = self._histogram(
            "lmaas_request_time_per_output_token_seconds",
            "Time of a request between two of its tokens, on average.",
            "model",
        )

    def count_request(self, model: str, usage: Usage, timings: Timings | None = None) -> None:
        """Add what the engine reported for one request, at its end."""
        self.prompt_tokens.labels(model).inc(usage.prompt_tokens)
        self.completion_tokens.labels(model).inc(usage.completion_tokens)
        if timings is not None:
            self.request_seconds_of["queue"].labels(model).observe(timings.queue_seconds)
            self.request_seconds_of["prefill"].labels(model).observe(timings.prefill_seconds)
            self.request_seconds_of["decode"].labels(model).observe(timings.decode_seconds)
            if usage.completion_tokens > 1:
                self.time_per_token.labels(model).observe(
                    timings.decode_seconds / (usage.completion_tokens - 1)
                )

    def render(self) -> str:
        """Prometheus' text format."""
        return generate_latest(self.registry).decode()


class ClusterCollector(Collector):
    """The cluster as it is when somebody asks: servers, deployments, replicas, sessions."""

    def __init__(self, cluster: ClusterManager) -> None:
        self._cluster = cluster

    def collect(self) -> Iterable[Metric]:
        deployments = self._cluster.deployments()
        by_state = collections.Counter(each.state.value for each in deployments)
        replicas = collections.Counter(state.value for each in deployments for state in each.servers.values())
        servers = self._cluster.servers()
        yield _by_state("lmaas_deployments", "Deployments, by state.", DeploymentState, by_state)
        yield _by_state("lmaas_replicas", "Replicas of all deployments, by state.", DeploymentState, replicas)
        server_states = collections.Counter(server.state.value for server in servers)
        yield _by_state("lmaas_servers", "Model servers, by state.", ServerState, server_states)
        in_flight = _gauge(
            "lmaas_server_requests_in_flight", "Requests of callers at a model server.", "server"
        )
        sessions = _gauge("lmaas_server_sessions", "Open sessions with the models of a server.", "server")
        restarts = CounterMetricFamily(
            "lmaas_server_restarts", "How often a model server was started again.", labels=["server"]
        )
        rollbacks = CounterMetricFamily(
            "lmaas_deployment_rollbacks", "Canaries that lost their traffic.", labels=["model"]
        )
        for model, count in self._cluster.rollbacks.items():
            rollbacks.add_metric([model], count)
        for server in servers:
            in_flight.add_metric([server.name], server.outstanding)
            sessions.add_metric([server.name], server.sessions)
            restarts.add_metric([server.name], server.restarts)
        yield from (in_flight, sessions, restarts, rollbacks)
        yield self._answer_ages()
        yield from self._scaling()

    def _scaling(self) -> Iterable[Metric]:
        """On `lmaas_wanted_replicas` an autoscaler acts. Façades that share Tritons count as one."""
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
    name: str, text: str, states: type[DeploymentState] | type[ServerState], found: collections.Counter[str]
) -> GaugeMetricFamily:
    """Each state has a sample, so that none disappears when its number becomes 0."""
    metric = _gauge(name, text, "state")
    for state in states:
        metric.add_metric([state.value], found[state.value])
    return metric
