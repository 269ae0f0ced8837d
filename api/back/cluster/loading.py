"""Loads a replica's model version into its server, until it answers a probe."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TypeVar

from api.back.cluster.idle_timeout import IdleTimeout
from api.back.cluster.probe import BUSY, Prober
from api.back.cluster.replica import Replica
from api.back.cluster.triton_client import TritonClient
from api.back.settings import BackSettings
from api.errors import ApiError, ServerFault

T = TypeVar("T")

LOAD_SECONDS = 120.0  # that the first load may idle: a large model on a slow disk
RELOAD_SECONDS = 30.0  # likewise a later load, at least: the machine may be slower than it was
SLOWER = 4  # a later load may idle this many times as long as the slowest load so far took
MAX_LOAD_SECONDS = 1800.0
ANSWER_SECONDS = 5.0  # that Triton, or a model just loaded, may idle before it answers


class Unresponsive(Exception):
    """The model gives no answer: only a new process of it helps."""


class TritonUnresponsive(Unresponsive):
    """Triton itself gives no answer."""


class LoadLimit:
    """The seconds that a load may idle: by the loads before it, and more with each failed try."""

    def __init__(self, first: float) -> None:
        self._first = first
        self._slowest: float | None = None
        self._failures = 0

    @property
    def seconds(self) -> float:
        base = self._first if self._slowest is None else max(RELOAD_SECONDS, SLOWER * self._slowest)
        return max(base, min(MAX_LOAD_SECONDS, base * 2.0**self._failures))

    def succeeded(self, seconds: float) -> None:
        self._slowest = max(seconds, self._slowest or 0.0)
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1


class ModelLoader:
    def __init__(
        self, replica: Replica, settings: BackSettings, prober: Prober, loading: asyncio.Lock
    ) -> None:
        self._replica = replica
        self._settings = settings
        self._prober = prober
        self._loading = loading  # of this model on this server: Triton loads all its versions in one call
        self._driver = replica.server.driver
        self.limit = LoadLimit(LOAD_SECONDS)

    async def bring_up(self, client: TritonClient) -> None:
        """Load and probe. Raises Unresponsive, or ApiError with the reason why it does not load."""
        began = time.monotonic()
        refused: ApiError | None = None
        if self._driver.shared and await self._others_healed_it(client):
            return
        async with self._loading:
            await self._clear_away(client)
            try:
                await self._load(client)
            except ServerFault as error:
                refused = error  # it may mean another version of this model: the probe decides
        answer = self._prober.timeout(max(ANSWER_SECONDS, self._settings.probe_timeout_seconds))
        try:
            await self._prober.wait_for(self._prober.ask(client), answer)
        except asyncio.TimeoutError:
            raise Unresponsive(f"it loaded, and does not answer a probe: {answer.reason}") from None
        except ApiError as error:
            raise refused or error from None
        self._replica.load_seconds = time.monotonic() - began
        self.limit.succeeded(self._replica.load_seconds)

    async def _others_healed_it(self, client: TritonClient) -> bool:
        """Else two façades would reload, again and again, what the other one has just loaded."""
        replica = self._replica
        await self._driver.repository.lay_out(replica.version_record, replica.manifest, replica.variant)
        with suppress(ApiError, asyncio.TimeoutError):
            await self._prober.wait_for(self._prober.ask(client), _answer_timeout())
            replica.loaded_by = client
            return True
        return False

    async def triton_answers(self, client: TritonClient) -> bool:
        with suppress(asyncio.TimeoutError):
            return await self._prober.wait_for(client.live(None), _answer_timeout())
        return False

    async def _clear_away(self, client: TritonClient) -> None:
        """End what an earlier load into this server left, so that the next load starts a new process."""
        if self._replica.loaded_by is client:
            if not await self.triton_answers(client):
                raise TritonUnresponsive("Triton itself does not answer")
            await self._driver.end_model(self._replica.version)
            await asyncio.to_thread(self._driver.repository.touch, *self._replica.version)
        self._replica.loaded_by = client

    async def _load(self, client: TritonClient) -> None:
        """Raises Unresponsive, or ApiError with the reason why it does not load."""
        seconds = self.limit.seconds
        timeout = IdleTimeout(seconds, BUSY * seconds)
        load = asyncio.create_task(client.load(self._replica.version[0], None))
        try:
            await self._prober.wait_for(_shielded(load), timeout, loading=True)
        except asyncio.TimeoutError:
            await self._driver.end_model(self._replica.version)
            with suppress(ApiError, asyncio.TimeoutError):
                await self._prober.wait_for(_shielded(load), _answer_timeout())
            # A Triton that is well gives up the load of a process that ended.
            found = Unresponsive if load.done() else TritonUnresponsive
            raise found(f"it does not load: {timeout.reason}") from None
        finally:
            load.cancel()
            await asyncio.wait({load})


def _answer_timeout() -> IdleTimeout:
    return IdleTimeout(ANSWER_SECONDS, BUSY * ANSWER_SECONDS)


async def _shielded(task: asyncio.Task[T]) -> T:
    return await asyncio.shield(task)
