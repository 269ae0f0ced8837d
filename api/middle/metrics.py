"""The façade's own Prometheus metrics; those named `lmaas_engine_*` and `lmaas_head_*` come from Triton.

No label holds what a caller wrote: routes are patterns, and a model's name counts once it was deployed.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

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
            "lmaas_task_duration_seconds", "From a task's arrival to its outcome.", "type", "model"
        )
        self.in_flight = gauge("lmaas_task_in_flight", "Tasks running.", "type")
        self.batches_open = gauge("lmaas_batch_open", "Batches that this façade works on.")
        self.batch_lines = counter("lmaas_batch_lines_total", "Lines of batches answered.", "outcome")
        self.batch_gave_way = counter(
            "lmaas_batch_gave_way_total", "Requests of batches that were interrupted for tasks, to run again."
        )
        self.queued = gauge("lmaas_task_queued", "Asynchronous tasks waiting.")
        self.queue_age = gauge(
            "lmaas_task_queue_age_seconds", "How long the asynchronous task has waited that waits longest."
        )
        self.queue_seconds = histogram(
            "lmaas_task_queue_seconds", "From an asynchronous task's arrival to its start.", "type"
        )
        self.store_waiting = gauge("lmaas_store_waiting", "Task records that wait to be written.")
        self.store_failing = gauge(
            "lmaas_store_failing", "1 while task records cannot be written: submissions are refused."
        )
        self.callbacks = counter("lmaas_callbacks_total", "Attempts to send a callback.", "outcome")
        self.refusals = counter(
            "lmaas_http_refusals_total",
            "Requests that may be sent again later (429, 503, 507), by reason.",
            "route",
            "reason",
        )
        self.first_token = histogram(
            "lmaas_task_time_to_first_token_seconds",
            "From a streamed task's arrival to its first text.",
            "type",
            "model",
        )
        self.inter_token = histogram(
            "lmaas_task_inter_token_latency_seconds",
            "Between two pieces of text of a streamed task.",
            "type",
            "model",
        )
        self.prompt_tokens = counter("lmaas_task_prompt_tokens_total", "Prompt tokens read.", "model")
        self.completion_tokens = counter("lmaas_task_generation_tokens_total", "Tokens generated.", "model")

        self.request_seconds_of = {
            part: histogram(f"lmaas_request_{part}_time_seconds", text, "model")
            for part, text in (
                ("queue", "How long a request waited in the engine."),
                ("prefill", "From a request's first step to its first token."),
                ("decode", "From a request's first token to its last."),
            )
        }
        self.time_per_token = histogram(
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
