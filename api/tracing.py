"""Spans of a request, on their way through all layers. Without a tracer they do nothing, and cost nothing.

POST /v1/generate            SERVER, api/front: from the head to the last byte
└── task generate            from admission to the outcome
    ├── queue                until a runner takes it
    └── dispatch             the handler
        └── triton generate  CLIENT, one for each request to a model server
            ├── engine queue, engine prefill, engine decode

Nothing of OpenTelemetry is imported here: `api/otlp.py` has the spans that are sent somewhere. No span holds
a prompt, an answer or the words of an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol

Value = str | int | float | bool
# Standard variables that name a receiver, as LMAAS_OTLP_ENDPOINT does.
ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
EXPORTER_VARIABLE = "OTEL_TRACES_EXPORTER"  # none: no traces


class Span:
    """One that is not recorded, and the base of those that are. Times are in nanoseconds since 1970.

    As a context it ends when the context does, with the error that left it.
    """

    trace_id: str | None = None  # None: nothing is recorded

    def child(self, name: str, *, client: bool = False, begin: int | None = None) -> Span:
        """A span within this one, from `begin`, or now, on. `client`: it covers a call to another process."""
        return self

    def set(self, values: Mapping[str, Value | None], name: str | None = None) -> None:
        """Add attributes; None is left out. `name` takes the place of the span's name."""

    def end(self, error: str | None = None, *, at: int | None = None) -> None:
        """Only the first call counts. `error` is a word for what went wrong, such as a status or a slug."""

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An iterator that is closed by its reader has done its work.
        failed = error is not None and not isinstance(error, GeneratorExit)
        self.end(getattr(error, "slug", type(error).__name__) if failed else None)


SILENT = Span()
_current: ContextVar[Span] = ContextVar("span", default=SILENT)


def current() -> Span:
    """The span of the running asyncio task."""
    return _current.get()


def enter(span: Span) -> None:
    """Make it the span of the running asyncio task, and of those that it creates."""
    _current.set(span)


class Tracer(Protocol):
    def begin(self, name: str, headers: Iterable[tuple[bytes, bytes]]) -> Span:
        """The span of an HTTP request, within the one that its `traceparent` names."""

    def close(self) -> None:
        """Send what waits, for a bounded time."""


class TracingError(Exception):
    """Tracing is asked for and cannot be had; `str(error)` is one line for the operator."""


def open_tracer(endpoint: str | None, environ: Mapping[str, str] = os.environ) -> Tracer | None:
    """None where neither `endpoint` nor a standard variable names a receiver. Raises TracingError."""
    if not endpoint and not any(environ.get(name) for name in ENDPOINT_VARIABLES):
        return None
    if environ.get(EXPORTER_VARIABLE) == "none":
        return None
    for name in PROTOCOL_VARIABLES:
        if environ.get(name, PROTOCOL) != PROTOCOL:
            raise TracingError(
                f"{name} is {environ[name]!r}, but traces are sent by {PROTOCOL} alone: leave it out, and"
                " name the receiver's port for HTTP (mostly 4318)"
            )
    try:
        from api.otlp import OtlpTracer  # only now: most appliances send no traces
    except ModuleNotFoundError as error:
        raise TracingError(f"traces need `pip install 'lmaas[tracing]'`: {error}") from None
    return OtlpTracer(endpoint)
