"""Plain ASGI middleware: a request id on every answer; one log line and the metrics for every request."""

from __future__ import annotations

import logging
import re
import secrets
import time
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.middle.metrics import Metrics

HEADER = "X-Request-Id"
CALLER_LEFT = 499  # as nginx logs it: nobody was there to answer

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

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
        request_id.set(chosen)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = chosen
            await send(message)

        await self.app(scope, receive, send_with_id)


class ObserveMiddleware:
    """Counts, times and logs each request when its last byte is sent, or when its caller left."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.perf_counter()
        status = CALLER_LEFT

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
            self._note(scope, status, time.perf_counter() - begin)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's pattern, not the path: a metric must not grow with what callers ask for.
        route = getattr(scope.get("endpoint"), "path", "none")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.request_seconds.labels(method, route).observe(seconds)
        level = logging.DEBUG if route in QUIET else logging.INFO
        if log.isEnabledFor(level):
            client = scope.get("client")
            fields = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "milliseconds": round(seconds * 1000, 2),
                "client": client[0] if client else None,
            }
            log.log(
                level, "%(method)s %(path)s %(status)s %(milliseconds)s ms", fields, extra={"fields": fields}
            )


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUIET = frozenset({"/health/live", "/health/ready", "/metrics"})  # asked every few seconds by machines
