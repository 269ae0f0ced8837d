"""Servers, health, metrics, the OpenAPI document."""

from __future__ import annotations

import contextlib
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.caller import Scope
from api.errors import Unavailable
from api.front.calls import appliance, json_answer, service
from api.front.endpoint import Endpoint
from api.front.openapi import openapi_document
from api.front.schemas.operations import (
    Capacities,
    DeploymentCapacity,
    Live,
    Ready,
    ServerChange,
    Servers,
    ServerView,
    Serving,
)
from api.middle.startup import RETRY_SECONDS, Phase

TAG = "Operations"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


async def servers(request: Request, _: Any) -> Response:
    records = service(request).servers()
    return json_answer(Servers(data=[ServerView.of(record) for record in records]))


async def change_server(request: Request, change: ServerChange) -> Response:
    record = service(request).drain_server(request.path_params["name"], change.draining)
    return json_answer(ServerView.of(record))


async def capacity(request: Request, _: Any) -> Response:
    records = service(request).capacity()
    return json_answer(Capacities(data=[DeploymentCapacity.of(record) for record in records]))


async def live(request: Request, _: Any) -> Response:
    """Live from the first moment; not any more once the bring-up failed."""
    state = appliance(request)
    if state.phase is Phase.FAILED:
        return json_answer(Live(status="failed", detail=state.failure), 503)
    return json_answer(Live(status="live"))


async def ready(request: Request, _: Any) -> Response:
    state = appliance(request)
    found = state.readiness()
    body = Ready(
        status="ready" if found.ready else "not ready",
        reasons=found.reasons,
        warnings=state.warnings(),
        probes=found.probes,
    )
    if found.ready:
        return json_answer(body)
    return json_answer(body, 503, {"Retry-After": str(int(RETRY_SECONDS))})


async def serving(request: Request, _: Any) -> Response:
    """In one word, which may be known to all."""
    if appliance(request).readiness().serves:
        return json_answer(Serving(status="ready"))
    return json_answer(Serving(status="not ready"), 503, {"Retry-After": str(int(RETRY_SECONDS))})


async def metrics(request: Request, _: Any) -> Response:
    """The façade's metrics, then the engine's; without the latter while the appliance is not serving."""
    text = request.app.state.metrics.render()
    with contextlib.suppress(Unavailable):
        text += await service(request).engine_metrics()
    return Response(text, media_type=PROMETHEUS)


async def openapi(request: Request, _: Any) -> Response:
    return JSONResponse(openapi_document(request.app.state.endpoints))


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/servers",
        servers,
        "List the model servers",
        TAG,
        scope=Scope.ADMIN,
        answers={200: Servers},
    ),
    Endpoint(
        "PATCH",
        "/v1/servers/{name}",
        change_server,
        "Drain a model server, or end that",
        TAG,
        scope=Scope.ADMIN,
        body=ServerChange,
        answers={200: ServerView},
    ),
    Endpoint(
        "GET",
        "/v1/capacity",
        capacity,
        "What each deployment is asked for, what it can do, and what is missing",
        TAG,
        scope=Scope.ADMIN,
        answers={200: Capacities},
    ),
    Endpoint(
        "GET",
        "/health/live",
        live,
        "Whether the process is alive",
        TAG,
        scope=None,
        answers={200: Live, 503: Live},
        open=True,
        keyless=True,
    ),
    Endpoint(
        "GET",
        "/health/ready",
        ready,
        "Whether every deployment answered a probe inference lately",
        TAG,
        scope=None,
        answers={200: Ready, 503: Ready},
    ),
    Endpoint(
        "GET",
        "/health/serving",
        serving,
        "Whether a load balancer should send requests here, without a key: as /health/ready; where all model "
        "servers are shared with other façades, one deployment that answers is enough",
        TAG,
        scope=None,
        answers={200: Serving, 503: Serving},
        open=True,
        keyless=True,
    ),
    Endpoint(
        "GET",
        "/metrics",
        metrics,
        "Metrics for Prometheus",
        TAG,
        scope=Scope.METRICS,
        answers={200: None},
        media_type="text/plain",
    ),
    Endpoint("GET", "/openapi.json", openapi, "This document", TAG, scope=None, answers={200: None}),
)
