"""Copies of requests, sent to a canary after the caller has the answer; compared, and thrown away.

They never delay a caller: the queue is short, what finds no room in it is dropped, and the engine serves
them after everything else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from api.back.cluster import router
from api.back.cluster.canary import Essence, agreement
from api.back.cluster.deployment import Deployment
from api.back.cluster.records import ModelVersion
from api.back.cluster.triton_client import TritonClient
from api.errors import ApiError, Overloaded

MAX_WAITING = 16
WORKERS = 2  # copies under way at once
COPY_SECONDS = 60.0  # that one may take
CALLER = "lmaas-shadow"  # as the engine's fair queue knows them

# Sends the copy; returns what its answer is compared by, and its seconds as `canary.service_seconds` counts.
Send = Callable[[TritonClient, ModelVersion], Awaitable[tuple[Essence | None, float]]]
Judge = Callable[[Deployment], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Copy:
    canary: Deployment
    send: Send
    expected: Essence | None  # of the answer that the caller got


class Shadows:
    def __init__(self, judge: Judge) -> None:
        """`judge` is called when the figures of a canary have changed."""
        self._judge = judge
        self._waiting: asyncio.Queue[Copy] = asyncio.Queue(MAX_WAITING)
        self._workers: list[asyncio.Task[Any]] = []

    def offer(self, copy: Copy) -> None:
        """Send it soon, or drop it where too many wait."""
        if not self._workers:
            self._workers = [asyncio.create_task(self._work()) for _ in range(WORKERS)]
        try:
            self._waiting.put_nowait(copy)
        except asyncio.QueueFull:
            if copy.canary.watch is not None:
                copy.canary.watch.dropped += 1

    async def close(self) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            copy = await self._waiting.get()
            try:
                await self._send(copy)
            except Exception:  # a defect here must not end the comparison of later ones
                logger.exception("a copy of a request to %s failed", copy.canary.name)

    async def _send(self, copy: Copy) -> None:
        canary, watch = copy.canary, copy.canary.watch
        if watch is None or not canary.replicas:  # rolled back, or undeployed, while this waited
            return
        try:
            replica = router.choose_replica(canary)
            with replica.serving() as client:
                send = copy.send(client, replica.version)
                found, seconds = await asyncio.wait_for(send, COPY_SECONDS)
        except Overloaded:
            watch.dropped += 1  # callers come first
            return
        except (ApiError, asyncio.TimeoutError):
            watch.own.failed()
        else:
            watch.own.succeeded(seconds)
            if copy.expected is not None and found is not None:
                watch.compared(agreement(copy.expected, found))
        self._judge(canary)
