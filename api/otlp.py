"""Spans of OpenTelemetry, sent by OTLP over HTTP from a thread of their own.

The standard variables choose sampling, names and headers (OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME,
OTEL_EXPORTER_OTLP_HEADERS ...).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterable, Mapping
from importlib import metadata

import requests
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from api.tracing import Span, Value

MAX_WAITING = 4096  # spans; more are dropped
MAX_BATCH = 512
BATCH_SECONDS = 0.5
STOP_SECONDS = 1.0  # for the last spans to find room, and to be sent
TRACEPARENT = b"traceparent"
CONTEXT_HEADERS = (TRACEPARENT, b"tracestate")

log = logging.getLogger(__name__)


class OtlpTracer:
    """Nothing in here waits for the receiver, except `close`."""

    def __init__(self, endpoint: str | None) -> None:
        """`endpoint` is the receiver's URL without a path; None: as the standard variables say."""
        session = requests.Session()
        session.trust_env = False  # as all of ours, it takes no proxy from the environment
        url = f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(SpanSender(OTLPSpanExporter(url, session=session)))
        self._tracer = self._provider.get_tracer("lmaas")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, headers: Iterable[tuple[bytes, bytes]]) -> Span:
        found = [(key, value) for key, value in headers if key in CONTEXT_HEADERS]
        if sum(key == TRACEPARENT for key, _ in found) > 1:  # W3C: it counts as none
            found = []
        carrier = {key.decode(): value.decode("latin-1") for key, value in found}
        context = self._propagator.extract(carrier, Context())
        return OtlpSpan(self._tracer, self._tracer.start_span(name, context, trace.SpanKind.SERVER))

    def close(self) -> None:
        self._provider.shutdown()


def _resource() -> Resource:
    found = Resource.create()
    if str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        version = "unknown"
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version("lmaas")
        found = found.merge(Resource({SERVICE_NAME: "lmaas", SERVICE_VERSION: version}))
    return found


class OtlpSpan(Span):
    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        if span.is_recording():
            self.trace_id = trace.format_trace_id(span.get_span_context().trace_id)

    def child(self, name: str, *, client: bool = False, begin: int | None = None) -> Span:
        context = trace.set_span_in_context(self._span, Context())
        kind = trace.SpanKind.CLIENT if client else trace.SpanKind.INTERNAL
        return OtlpSpan(self._tracer, self._tracer.start_span(name, context, kind, start_time=begin))

    def set(self, values: Mapping[str, Value | None], name: str | None = None) -> None:
        if self._span.is_recording():
            self._span.set_attributes({key: value for key, value in values.items() if value is not None})
            if name is not None:
                self._span.update_name(name)

    def end(self, error: str | None = None, *, at: int | None = None) -> None:
        if self._span.is_recording():  # until it has ended
            if error is not None:
                self._span.set_attribute("error.type", error)
                self._span.set_status(trace.StatusCode.ERROR)
            self._span.end(at)


class SpanSender(SpanProcessor):
    """In place of the SDK's BatchSpanProcessor, which starts a thread in each child that uvloop forks."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._waiting: queue.Queue[ReadableSpan | None] = queue.Queue(MAX_WAITING)
        self._has_dropped = False
        self._thread = threading.Thread(target=self._run, name="lmaas-spans", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        if not span.context.trace_flags.sampled:
            return
        try:
            self._waiting.put_nowait(span)
        except queue.Full:
            if not self._has_dropped:
                log.warning("spans are dropped: the receiver of traces is slow or away")
            self._has_dropped = True

    def shutdown(self) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=STOP_SECONDS)
        self._thread.join(STOP_SECONDS)
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch = self._next_batch()
            is_open = None not in batch
            try:
                if spans := [span for span in batch if span is not None]:
                    self._exporter.export(spans)
                    self._has_dropped = False
            except Exception:
                log.exception("spans could not be sent")

    def _next_batch(self) -> list[ReadableSpan | None]:
        """Wait for one, then for what comes within BATCH_SECONDS; None is the last one."""
        batch = [self._waiting.get()]
        end = time.monotonic() + BATCH_SECONDS
        with contextlib.suppress(queue.Empty):
            while len(batch) < MAX_BATCH and batch[-1] is not None:
                batch.append(self._waiting.get(timeout=max(0.0, end - time.monotonic())))
        return batch
