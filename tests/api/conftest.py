"""Fixtures of the façade's tests: an application over a back layer in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from api.app import create_app
from api.config import Settings
from api.middle.startup import Phase
from api.server import Server
from tests.api.fakes import FakeBack
from tests.api.sockets import Served, started


@pytest.fixture
def back() -> FakeBack:
    return FakeBack.make()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, models=tmp_path / "none", drain_seconds=1)


@pytest.fixture
def app(settings: Settings, back: FakeBack) -> Starlette:
    return create_app(settings, open_backend=back.open)


@pytest.fixture
def client(app: Starlette) -> Iterator[TestClient]:
    """Over the running application, its bring-up over."""
    with serving_client(app) as client:
        yield client


@contextmanager
def serving_client(app: Starlette) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://localhost") as client:
        assert client.portal is not None
        client.portal.call(serving, app)
        yield client


async def serving(app: Starlette) -> None:
    """Return when the bring-up is over."""
    while app.state.appliance.phase is Phase.STARTING:
        await anyio.lowlevel.checkpoint()
    assert app.state.appliance.phase is Phase.SERVING, app.state.appliance.failure


@asynccontextmanager
async def running(app: Starlette) -> AsyncIterator[None]:
    """The application's lifespan, for tests that speak ASGI themselves."""
    async with app.router.lifespan_context(app):
        await serving(app)
        yield


Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture
def run() -> Run:
    """Run an async test to its end, at most 20 seconds."""

    async def bounded(test: Callable[[], Awaitable[None]]) -> None:
        with anyio.fail_after(20):
            await test()

    # Not anyio.run: anyio's pytest plugin leaves this thread marked as running once it had an async test.
    return lambda test: asyncio.run(bounded(test))


Serve = Callable[..., None]


@pytest.fixture
def serve(settings: Settings, back: FakeBack, run: Run) -> Serve:
    """Run a test against a server with the settings given."""

    @asynccontextmanager
    async def serving_with(changes: dict[str, Any]) -> AsyncIterator[Served]:
        changed = settings.model_copy(update={"port": 0, "drain_seconds": 0.05, **changes})
        app = create_app(changed, open_backend=back.open)
        server = Server(app, changed)
        task, port = await started(server)
        await serving(app)
        served = Served(server, port)
        try:
            yield served
        finally:
            await served.stop(task)

    def serve(test: Callable[[Served], Awaitable[None]], **changes: Any) -> None:
        async def whole() -> None:
            async with serving_with(changes) as served:
                await test(served)

        run(whole)

    return serve
