"""The health of a replica, judged by a probe inference: Triton calls a model ready whose process is dead."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from api.back.cluster.idle_timeout import TICK_SECONDS, Activity, IdleTimeout, wait_for
from api.back.cluster.metrics import engine_counters
from api.back.cluster.replica import Replica
from api.back.cluster.triton_client import TritonClient
from api.back.settings import BackSettings
from api.errors import ApiError, Overloaded

T = TypeVar("T")

BUSY = 10  # a load or a probe that works may take this many times as long as one that idles
PROGRESS_SECONDS = 3 * TICK_SECONDS  # within which a load that works uses the processor again
WORK_SECONDS = 1.5  # within which an engine that works reports a step: it does so each second


class LoadProgress:
    """When any model was last seen to load. Loads share the processors with everything that waits."""

    def __init__(self) -> None:
        self._last = -math.inf  # monotonic seconds

    def seen(self) -> None:
        self._last = time.monotonic()

    @property
    def recent(self) -> bool:
        return time.monotonic() - self._last < PROGRESS_SECONDS


class Prober:
    """Probes one replica, and waits for it in a way that a slow machine does not count against it."""

    def __init__(self, replica: Replica, settings: BackSettings, loads: LoadProgress) -> None:
        self._replica = replica
        self._settings = settings
        self._loads = loads

    async def wait_for(
        self, work: Coroutine[Any, Any, T], timeout: IdleTimeout, *, loading: bool = False
    ) -> T:
        """As `idle_timeout.wait_for`: the replica's processes are at work, or any load is.

        `loading`: this work is a load itself.
        """
        driver, version = self._replica.server.driver, self._replica.version
        activity = Activity(lambda: driver.cpu_seconds(version))

        async def at_work() -> bool:
            works = await activity.seen()
            if works and loading:
                self._loads.seen()
            return works or self._loads.recent

        return await wait_for(work, timeout, at_work)

    def timeout(self, idle_seconds: float) -> IdleTimeout:
        """For one probe; while the engine works it may take as long as its longest step."""
        settings = self._settings
        longest = max(BUSY * settings.probe_timeout_seconds, float(settings.engine.step_timeout_seconds))
        return IdleTimeout(idle_seconds, longest)

    async def check(self, client: TritonClient) -> str | None:
        """The fault that a probe finds; None where there is none."""
        began = time.monotonic()
        timeout = self.timeout(self._settings.probe_timeout_seconds)
        try:
            await self.wait_for(self.ask(client), timeout)
        except (asyncio.TimeoutError, Overloaded) as error:
            well = self._replica.answered_since(began) or await self._engine_works()
            if not well and not self._replica.answered_since(began):
                return f"no answer to a probe: {timeout.reason or error}"
        except ApiError as error:
            return error.detail
        return None

    async def ask(self, client: TritonClient) -> None:
        """Raises ApiError."""
        await client.probe(self._replica.version, self._replica.manifest)
        self._replica.answered()

    async def _engine_works(self) -> bool:
        """Whether the engine's counters grow: an engine that is full answers no probe, yet it is well."""
        address, version = self._replica.server.driver.endpoints.metrics, self._replica.version
        before = await engine_counters(address, *version)
        if not before:
            return False
        await asyncio.sleep(WORK_SECONDS)
        after = await engine_counters(address, *version)
        return any(after.get(name, value) > value for name, value in before.items())
