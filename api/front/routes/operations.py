"""Servers, health, metrics, the OpenAPI document."""

from __future__ import annotations

import contextlib
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.errors import Unavailable
from api.front.calls import appliance, json_answer, service
from api.front.endpoint import Endpoint
from api.front.openapi import openapi_document
from api.front.schemas.operations import Live, Ready, Servers, ServerView
from api.middle.startup import RETRY_SECONDS, Phase

TAG = "Operations"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


async def servers(request: Request, _: Any) -> Response:
    records = service(request).backend.cluster.servers()
    return json_answer(Servers(data=[ServerView.of(record) for record in records]))


async def live(request: Request, _: Any) -> Response:
    """Live from the first moment; not any more once the bring-up failed."""
    state = appliance(request)
    if state.phase is Phase.FAILED:
        return json_answer(Live(status="failed", detail=state.failure), 503)
    return json_answer(Live(status="live"))


async def ready(request: Request, _: Any) -> Response:
    found = appliance(request).readiness()
    body = Ready(status="ready" if found.ready else "not ready", reasons=found.reasons, probes=found.probes)
    if found.ready:
        return json_answer(body)
    return json_answer(body, 503, {"Retry-After": str(int(RETRY_SECONDS))})


async def metrics(request: Request, _: Any) -> Response:
    """The façade's metrics, then the engine's; without the latter while the appliance is not serving."""
    text = request.app.state.metrics.render()
    with contextlib.suppress(Unavailable):
        text += await service(request).backend.cluster.engine_metrics()
    return Response(text, media_type=PROMETHEUS)


async def openapi(request: Request, _: Any) -> Response:
    return JSONResponse(openapi_document(request.app.state.endpoints))


ENDPOINTS = (
    Endpoint("GET", "/v1/servers", servers, "List the model servers", TAG, answers={200: Servers}),
    Endpoint(
        "GET", "/health/live", live, "Whether the process is alive", TAG, answers={200: Live, 503: Live}
    ),
    Endpoint(
        "GET",
        "/health/ready",
        ready,
        "Whether every deployment answered a probe inference lately",
        TAG,
        answers={200: Ready, 503: Ready},
    ),
    Endpoint(
        "GET",
        "/metrics",
        metrics,
        "Metrics for Prometheus",
        TAG,
        answers={200: None},
        media_type="text/plain",
    ),
    Endpoint("GET", "/openapi.json", openapi, "This document", TAG, answers={200: None}),
)
