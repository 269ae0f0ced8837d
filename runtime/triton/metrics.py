"""The engine's figures in Triton's own `/metrics`, labelled by model and version.

Triton's `nv_inference_pending_request_count` says nothing for a backend that takes every request at once.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from typing import Any

import triton_python_backend_utils as pb_utils

from runtime.contract import FALLBACK_METRIC, FinishReason
from runtime.engine import EngineStats

logger = logging.getLogger(__name__)

# name -> (field of EngineStats, description)
GAUGES = {
    "lmaas_engine_running": ("running", "Sequences that own a slot"),
    "lmaas_engine_waiting": ("waiting", "Requests that wait for a slot"),
    "lmaas_engine_slots": ("slots", "Sequences that can run at once"),
    "lmaas_engine_kv_tokens_used": ("kv_tokens_used", "Rows of the KV cache that belong to sequences"),
    "lmaas_engine_kv_tokens_promised": ("kv_tokens_promised", "Rows that these may come to need"),
    "lmaas_engine_kv_tokens_resident": ("kv_tokens_resident", "Rows promised, or that hold memory"),
    "lmaas_engine_kv_tokens_capacity": ("kv_tokens_capacity", "Most rows that may be promised"),
    "lmaas_engine_kv_cache_usage_ratio": ("kv_cache_usage", "Share of these rows that is promised, 0 to 1"),
    "lmaas_engine_stalled": ("stalled", "1 where a step did not return, just before the process ends"),
}
COUNTERS = {
    "lmaas_engine_generated_tokens_total": ("generated_tokens", "Tokens generated"),
    "lmaas_engine_prompt_tokens_total": ("prompt_tokens", "Prompt tokens run through the graph"),
    "lmaas_engine_reused_tokens_total": ("reused_tokens", "Prompt tokens found in the KV cache"),
    "lmaas_engine_preempted_total": (
        "preempted",
        "Sequences that lost their slots to other callers' for a while",
    ),
    "lmaas_engine_steps_total": ("steps", "Runs of the graph"),
    "lmaas_engine_queue_seconds_total": ("queue_seconds", "Time that finished requests waited"),
    "lmaas_engine_prefill_seconds_total": ("prefill_seconds", "Time from start to first token"),
    "lmaas_engine_decode_seconds_total": ("decode_seconds", "Time from first token to last"),
}
FINISHED = ("lmaas_engine_sequences_finished_total", "Sequences that ended, by reason")
FALLBACK = (
    FALLBACK_METRIC,
    "With plans of TensorRT: when the model was loaded; why ONNX Runtime computes, empty where a plan does",
)
MAX_REASON = 300  # characters
HEAD_RUNS = ("lmaas_head_runs_total", "Runs of the graph of a trained head")


class _Metrics(ABC):
    """Silent where the server was started without metrics."""

    def __init__(self, labels: dict[str, str]) -> None:
        self._families: list[Any] = []  # a family must outlive its metrics
        try:
            self._declare(labels)
        except pb_utils.TritonModelException as error:
            if "not supported" not in str(error) and "disabled" not in str(error):
                raise
            logger.info("the server exports no metrics: %s", error)

    @abstractmethod
    def _declare(self, labels: dict[str, str]) -> None:
        """Make the metrics; raises what Triton does."""

    def _family(self, name: str, description: str, kind: str) -> Any:
        kinds = pb_utils.MetricFamily
        self._families.append(kinds(name=name, description=description, kind=getattr(kinds, kind)))
        return self._families[-1]


class HeadMetrics(_Metrics):
    def __init__(self, labels: dict[str, str]) -> None:
        self._runs: Any = None
        super().__init__(labels)

    def count_run(self) -> None:
        if self._runs is not None:
            self._runs.increment(1)

    def _declare(self, labels: dict[str, str]) -> None:
        family = self._family(*HEAD_RUNS, "COUNTER")
        self._runs = family.Metric(labels=labels)


class EngineMetrics(_Metrics):
    def __init__(self, labels: dict[str, str], fallback: str | None) -> None:
        """`fallback` is that of the engine."""
        self._fallback = fallback
        self._gauges: dict[str, Any] = {}
        self._counters: dict[str, Any] = {}
        self._reported: dict[str, float] = {}
        super().__init__(labels)

    def report(self, stats: EngineStats) -> None:
        for name, metric in self._gauges.items():
            value = float(getattr(stats, GAUGES[name][0]))
            if self._reported.get(name) != value:
                metric.set(value)
                self._reported[name] = value
        for name, metric in self._counters.items():
            reason = FinishReason(name.removeprefix(FINISHED[0])) if name.startswith(FINISHED[0]) else None
            value = float(stats.finished[reason] if reason else getattr(stats, COUNTERS[name][0]))
            if growth := value - self._reported.get(name, 0.0):
                metric.increment(growth)
                self._reported[name] = value

    def _declare(self, labels: dict[str, str]) -> None:
        for name, (_, description) in GAUGES.items():
            self._gauges[name] = self._family(name, description, "GAUGE").Metric(labels=labels)
        for name, (_, description) in COUNTERS.items():
            self._counters[name] = self._family(name, description, "COUNTER").Metric(labels=labels)
        finished = self._family(*FINISHED, "COUNTER")
        for reason in FinishReason:
            metric = finished.Metric(labels={**labels, "reason": reason.value})
            self._counters[FINISHED[0] + reason.value] = metric
        if self._fallback is not None:
            # Loads differ in their time: Triton may go on to show what a process said that has died.
            named = {**labels, "reason": " ".join(self._fallback.split())[:MAX_REASON]}
            self._family(*FALLBACK, "GAUGE").Metric(labels=named).set(time.time())
