"""Plain ASGI middleware: a request id on every answer; one log line and the metrics for every request."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import tracing
from api.caller import Caller
from api.log_context import LogContext
from api.middle.metrics import Metrics
from api.tracing import Tracer

HEADER = "X-Request-Id"
CALLER_LEFT = 499  # as nginx logs it: nobody was there to answer

_SANE = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")

log = logging.getLogger("lmaas.access")


class RequestIdMiddleware:
    """Keeps the caller's id where it is sane, and makes one where it is not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        chosen = given if _SANE.fullmatch(given) else secrets.token_hex(12)
        scope.setdefault("state", {})["request_id"] = chosen
        LogContext(chosen).enter()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = chosen
            await send(message)

        await self.app(scope, receive, send_with_id)


class ObserveMiddleware:
    """Counts, times and logs each request when its last byte is sent, or when its caller left."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracer: Tracer | None) -> None:
        self.app = app
        self.metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.perf_counter()
        status = CALLER_LEFT
        span = self._begin_span(scope)

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.metrics.requests_open.inc()
        try:
            await self.app(scope, receive, send_and_note)
        finally:
            self.metrics.requests_open.dec()
            _end_span(span, scope, status)
            self._note(scope, status, time.perf_counter() - begin)

    def _begin_span(self, scope: Scope) -> tracing.Span:
        if self._tracer is None or scope["path"] in QUIET:
            return tracing.SILENT
        span = self._tracer.begin(_method(scope), scope["headers"])
        tracing.enter(span)
        LogContext.current().trace_id = span.trace_id
        return span

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's pattern, not the path: a metric must not grow with what callers ask for.
        route, method = _route(scope), _method(scope)
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.request_seconds.labels(method, route).observe(seconds)
        level = logging.DEBUG if route in QUIET else logging.INFO
        if log.isEnabledFor(level):
            client = scope.get("client")
            fields = {
                "method": scope["method"],
                "path": scope["path"],
                "route": route,
                "status": status,
                "milliseconds": round(seconds * 1000, 2),
                "client": client[0] if client else None,
                "key": _key(scope),
            }
            log.log(
                level, "%(method)s %(path)s %(status)s %(milliseconds)s ms", fields, extra={"fields": fields}
            )


def _key(scope: Scope) -> str | None:
    """The public id of the caller's API key, once it was checked."""
    caller: Caller | None = scope["state"].get("caller")
    return caller.key if caller is not None and caller.verified else None


def _route(scope: Scope) -> str:
    return getattr(scope.get("endpoint"), "path", "none")


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else "other"


def _end_span(span: tracing.Span, scope: Scope, status: int) -> None:
    """Its attributes are those of OpenTelemetry's conventions for HTTP servers."""
    client = scope.get("client")
    values = {
        "http.request.method": _method(scope),
        "http.route": _route(scope),
        "http.response.status_code": status,
        "client.address": client[0] if client else None,
        "lmaas.request.id": LogContext.current().request_id,
    }
    span.set(values, f"{_method(scope)} {_route(scope)}")
    span.end(str(status) if status >= 500 else None)


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Asked every few seconds by machines.
QUIET = frozenset({"/health/live", "/health/ready", "/health/serving", "/health", "/ping", "/metrics"})
