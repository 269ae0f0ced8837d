"""The façade as an ASGI application: routes, middleware, and a lifespan that owns the appliance."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Route

from api.back.backend import Backend
from api.config import Settings
from api.front.endpoint import PathApp
from api.front.middleware import ObserveMiddleware, RequestIdMiddleware
from api.front.problems import on_no_route
from api.front.routes import ENDPOINTS
from api.middle.bundled import Progress
from api.middle.metrics import Metrics
from api.middle.startup import Appliance, OpenBackend

GZIP_FROM_BYTES = 2048  # below that, compressing costs more than it saves


def create_app(
    settings: Settings,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    open_backend: OpenBackend = Backend.open,
) -> Starlette:
    """The application. It answers at once; its bring-up goes on behind /health/ready and `on_progress`.

    `app.state.appliance` is the Appliance: a server calls its `drain` when it is told to stop, so that
    streams end before connections do (api/server.py does).
    """
    metrics = Metrics()
    appliance = Appliance(settings, metrics, on_progress, open_backend)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        appliance.start()
        try:
            yield
        finally:
            await appliance.stop()

    by_path = itertools.groupby(sorted(ENDPOINTS, key=lambda endpoint: endpoint.path), lambda item: item.path)
    app = Starlette(
        routes=[Route(path, PathApp(path, list(group)), methods=None) for path, group in by_path],
        middleware=[
            Middleware(RequestIdMiddleware),
            Middleware(ObserveMiddleware, metrics=metrics),
            Middleware(GZipMiddleware, minimum_size=GZIP_FROM_BYTES, compresslevel=4),
        ],
        exception_handlers={404: on_no_route},
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.appliance = appliance
    app.state.endpoints = ENDPOINTS
    return app
