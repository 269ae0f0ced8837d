"""When a drill counts as over."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from bench.drills import watch
from bench.drills.watch import Watch

pytestmark = pytest.mark.anyio
ILL = {"reasons": ["mini-lm/1 is unhealthy"], "warnings": []}
WELL: dict[str, list[str]] = {"reasons": [], "warnings": []}


class Server:
    """It answers badly while `ill`, and not at all while `hangs`."""

    def __init__(self) -> None:
        self.ill = False
        self.asked_badly = asyncio.Semaphore(0)
        self.runs = asyncio.Event()
        self.runs.set()

    async def answer(self, request: httpx.Request) -> httpx.Response:
        ill = self.ill
        await self.runs.wait()
        if ill:
            self.asked_badly.release()
        return httpx.Response(503 if ill else 200, json=ILL if ill else WELL)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    for name, seconds in (("PAUSE", 0.002), ("SLOW", 0.05), ("NOTICE", 0.0), ("CALM", 0.1)):
        monkeypatch.setattr(watch, f"{name}_SECONDS", seconds)
    return Server()


def watching(server: Server) -> Watch:
    made = Watch("http://there")
    made._client = httpx.AsyncClient(transport=httpx.MockTransport(server.answer), base_url="http://there")
    return made


async def test_it_is_over_at_the_first_good_answer_after_the_last_bad_one(server: Server) -> None:
    found = watching(server)
    begin = time.monotonic()
    async with found.running():
        server.ill = True
        for _ in range(6):
            await asyncio.wait_for(server.asked_badly.acquire(), 30)
        server.ill, healed = False, time.monotonic()
        seconds = await found.recovery(begin)
        ended = time.monotonic()
    assert healed - begin <= seconds <= ended - begin - watch.CALM_SECONDS
    assert found.said == ["mini-lm/1 is unhealthy"]
    assert set(found.failed) <= {"/health/ready: 503", "/v1/generate: 503", "/v1/tasks: 503"}


async def test_an_answer_that_waits_is_not_well(server: Server) -> None:
    found = watching(server)
    begin = time.monotonic()
    async with found.running():
        server.runs.clear()
        recovery = asyncio.create_task(found.recovery(begin))
        done, _ = await asyncio.wait({recovery}, timeout=3 * watch.CALM_SECONDS)
        assert not done
        server.runs.set()
        assert await recovery >= 3 * watch.CALM_SECONDS
    assert found.failed == {}


async def test_what_never_recovers_is_a_problem(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_SECONDS", 0.1)
    found = watching(server)
    server.ill = True
    async with found.running():
        with pytest.raises(TimeoutError, match="it has not recovered within"):
            await found.recovery(time.monotonic())
