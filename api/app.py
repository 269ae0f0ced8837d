"""The façade as an ASGI application: routes, middleware, and a lifespan that owns the appliance."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.routing import Route

from api.back.backend import Backend
from api.back.store.archives import MEDIA_TYPE as ARCHIVE_TYPE
from api.back.store.files import MEDIA_TYPE as FILE_TYPE
from api.config import Settings
from api.front.batch_lines import BatchLines
from api.front.endpoint import PathApp
from api.front.middleware import ObserveMiddleware, RequestIdMiddleware
from api.front.problems import on_no_route
from api.front.routes import ENDPOINTS
from api.front.security import SecurityHeadersMiddleware, cors
from api.front.site import Site
from api.middle.bundled import Progress
from api.middle.keys import KeyRing
from api.middle.metrics import Metrics
from api.middle.startup import Appliance, OpenBackend
from api.tracing import Tracer, open_tracer

GZIP_FROM_BYTES = 2048  # below that, compressing costs more than it saves
# Byte ranges count the bytes of the file itself, and weights hardly compress.
NEVER_COMPRESSED = (*DEFAULT_EXCLUDED_CONTENT_TYPES, ARCHIVE_TYPE, FILE_TYPE)


def create_app(
    settings: Settings,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    open_backend: OpenBackend = Backend.open,
    keys_exist: bool = False,
) -> Starlette:
    """The application. It answers at once; its bring-up goes on behind /health/ready and `on_progress`.

    `app.state.appliance` is the Appliance: a server calls its `drain` when it is told to stop, so that
    streams end before connections do (api/server.py does). `keys_exist`: API keys were created before the
    start, so that every caller needs one from the first moment. Raises TracingError.
    """
    metrics, site = Metrics(), Site(settings)
    tracer = open_tracer(settings.otlp_endpoint)
    keys = KeyRing(settings, exist=keys_exist)
    appliance = Appliance(settings, metrics, keys, on_progress, open_backend, BatchLines())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        appliance.start()
        try:
            yield
        finally:
            await appliance.stop()
            if tracer is not None:
                await asyncio.to_thread(tracer.close)

    app = Starlette(
        routes=_routes(),
        middleware=_middleware(settings, site, metrics, tracer),
        exception_handlers={404: on_no_route},
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.site = site
    app.state.metrics = metrics
    app.state.appliance = appliance
    app.state.endpoints = ENDPOINTS
    return app


def _routes() -> list[Route]:
    by_path = itertools.groupby(sorted(ENDPOINTS, key=lambda endpoint: endpoint.path), lambda item: item.path)
    return [Route(path, PathApp(path, list(group)), methods=None) for path, group in by_path]


def _middleware(settings: Settings, site: Site, metrics: Metrics, tracer: Tracer | None) -> list[Middleware]:
    """The first one sees a request first."""
    return [
        Middleware(SecurityHeadersMiddleware),
        Middleware(RequestIdMiddleware),
        Middleware(ObserveMiddleware, metrics=metrics, tracer=tracer),
        *cors(settings, site),
        Middleware(
            GZipMiddleware,
            minimum_size=GZIP_FROM_BYTES,
            compresslevel=4,
            exclude_content_types=NEVER_COMPRESSED,
        ),
    ]
