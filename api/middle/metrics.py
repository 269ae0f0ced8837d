"""The façade's own Prometheus metrics, `lmaas_http_*` and `lmaas_task_*`; the engine's come from Triton."""

from __future__ import annotations

from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second line per series that no one reads

# Small models answer in milliseconds; the usual buckets, from 5 or 300 ms, would put all into the first.
SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
)  # fmt: skip


class Metrics:
    """One registry per application, so that two in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, labels, registry=self.registry, buckets=SECONDS)

        self.requests = counter(
            "lmaas_http_requests_total", "HTTP requests answered.", "method", "route", "status"
        )
        self.request_seconds = histogram(
            "lmaas_http_request_duration_seconds",
            "From the request's head to its last byte.",
            "method",
            "route",
        )
        self.requests_open = gauge("lmaas_http_requests_in_flight", "HTTP requests under way.")
        self.upload_bytes = counter("lmaas_http_upload_bytes_total", "Bytes of model archives received.")
        self.outcomes = counter("lmaas_task_outcomes_total", "Tasks closed, by outcome.", "type", "outcome")
        self.task_seconds = histogram(
            "lmaas_task_duration_seconds", "From a task's arrival to its outcome.", "type"
        )
        self.in_flight = gauge("lmaas_task_in_flight", "Tasks running.", "type")
        self.queued = gauge("lmaas_task_queued", "Asynchronous tasks waiting.")
        self.refused = counter("lmaas_task_refused_total", "Tasks refused for want of room (429).", "type")
        self.first_token = histogram(
            "lmaas_task_time_to_first_token_seconds",
            "From a streamed task's arrival to its first text.",
            "model",
        )
        self.inter_token = histogram(
            "lmaas_task_inter_token_seconds", "Between two pieces of text of a streamed task.", "model"
        )
        self.prompt_tokens = counter("lmaas_task_prompt_tokens_total", "Prompt tokens read.", "model")
        self.completion_tokens = counter("lmaas_task_completion_tokens_total", "Tokens generated.", "model")

    def count_tokens(self, model: str, usage: dict[str, Any] | None) -> None:
        """Add what the engine reported for one request."""
        if usage:
            self.prompt_tokens.labels(model).inc(usage.get("prompt_tokens", 0))
            self.completion_tokens.labels(model).inc(usage.get("completion_tokens", 0))

    def render(self) -> str:
        """Prometheus' text format."""
        return generate_latest(self.registry).decode()
