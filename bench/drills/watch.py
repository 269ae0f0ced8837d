"""The three loops that watch an appliance during a drill, as the runbook's own loop does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

PAUSE_SECONDS = 0.2
SLOW_SECONDS = 1.0  # an answer that took longer had to wait for the appliance to recover
NOTICE_SECONDS = 12.0  # in which a fault shows, if it ever does
CALM_SECONDS = 3.0  # without a bad answer, after which it is over
MAX_SECONDS = 120.0
GOOD = ("200", "202")
PROMPT = {"prompt": "Once upon a time", "max_tokens": 8}
TASK = {"type": "generate", "parameters": PROMPT}


class Watch:
    def __init__(self, url: str) -> None:
        self.failed: dict[str, int] = {}  # requests by what they were answered, other than well
        self.said: list[str] = []  # reasons and warnings of /health/ready, each once
        self._client = httpx.AsyncClient(base_url=url, trust_env=False, timeout=MAX_SECONDS)
        self._ill: set[str] = set()  # the loops whose last answer was bad
        self._well = 0.0  # when a loop was answered well again, in monotonic seconds
        self._begun: dict[str, float] = {}  # the request of each loop that is under way

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        asks = (("GET", "/health/ready", None), ("POST", "/v1/generate", PROMPT), ("POST", "/v1/tasks", TASK))
        loops = [asyncio.create_task(self._ask(*each)) for each in asks]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._client.aclose()

    async def _ask(self, method: str, path: str, body: Any) -> None:
        while True:
            self._begun[path] = begin = time.monotonic()
            try:
                response = await self._client.request(method, path, json=body)
                outcome = str(response.status_code)
                if path == "/health/ready":
                    self._note(response.json())
            except httpx.TransportError as error:
                outcome = type(error).__name__
            self._judge(path, outcome, begin)
            await asyncio.sleep(PAUSE_SECONDS)

    def _judge(self, path: str, outcome: str, begin: float) -> None:
        now = time.monotonic()
        if outcome not in GOOD:
            self._ill.add(path)
            answer = f"{path}: {outcome}"
            self.failed[answer] = self.failed.get(answer, 0) + 1
        elif path in self._ill or now - begin > SLOW_SECONDS:
            self._ill.discard(path)
            self._well = now

    def _note(self, health: dict[str, Any]) -> None:
        for line in (*health["reasons"], *health["warnings"]):
            if line not in self.said:
                self.said.append(line)

    async def recovery(self, begin: float) -> float:
        """Seconds from `begin` until all is well again, once that is clear. Raises TimeoutError."""
        while True:
            now = time.monotonic()
            waits = self._ill or any(now - since > SLOW_SECONDS for since in self._begun.values())
            if not waits and now - begin > NOTICE_SECONDS and now - max(begin, self._well) > CALM_SECONDS:
                return max(0.0, self._well - begin)
            if now - begin > MAX_SECONDS:
                raise TimeoutError(f"it has not recovered within {MAX_SECONDS:g} s")
            await asyncio.sleep(PAUSE_SECONDS)
