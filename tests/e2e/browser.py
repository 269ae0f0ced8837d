"""A real browser, for the tests of the console."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from api.app import create_app
from api.config import Settings
from api.server import Server
from tests.api.conftest import serving
from tests.api.fakes import FakeBack
from tests.api.sockets import Served, started

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
SECONDS = 60.0  # for what a busy machine does late
# Chromium reports each answer of 4xx or 5xx: the tests that ask for one expect it.
REFUSED = "Failed to load resource: the server responded with a status of"
Open = Callable[..., Page]
expect.set_options(timeout=SECONDS * 1000)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Skips where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("needs a Chromium or Chrome; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found)
        yield started
        started.close()


@contextmanager
def console_of(browser: Browser, url: str) -> Iterator[Open]:
    """Opens a view in a window of its own. What the scripts complain of fails the test."""
    complaints: list[str] = []
    opened = []

    def open_view(view: str, *, refused: bool = False, **options: Any) -> Page:
        context = browser.new_context(**({"viewport": WIDE} | options))
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                complaints.append(message.text)
                if message.type == "error" and not (refused and message.text.startswith(REFUSED))
                else None
            ),
        )
        page.goto(f"{url}/#/{view}")
        expect(page.locator("#health")).to_have_text("ready")
        return page

    yield open_view
    for context in opened:
        context.close()
    assert complaints == []


def button(place: Page | Locator, name: str) -> Locator:
    return place.get_by_role("button", name=name, exact=True)


@contextmanager
def facade_with_keys(home: Path) -> Iterator[tuple[str, str]]:
    """The address of a façade that needs keys, over a back layer in memory, and a key."""
    settings = Settings(home=home, models=home / "none", port=0, access="keys", drain_seconds=0.05)
    back = FakeBack.make()

    @asynccontextmanager
    async def served() -> AsyncIterator[int]:
        app = create_app(settings, open_backend=back.open)
        server = Server(app, settings)
        task, port = await started(server)
        await serving(app)
        yield port
        await Served(server, port).stop(task)

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(served()) as port:
        yield f"http://127.0.0.1:{port}", back.keys.add("me")[1]
