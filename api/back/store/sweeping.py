"""Deletes what is old, now and then, while a store is open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from api.back.store.task_writer import first
from api.errors import StoreUnavailable

logger = logging.getLogger(__name__)


@asynccontextmanager
async def sweeping(
    sweep: Callable[[], Awaitable[int]], what: str, seconds: float, closing: asyncio.Event | None = None
) -> AsyncIterator[None]:
    """Call `sweep` at once and then every `seconds`, while the block lasts. It returns how many it deleted.

    `closing` is set at the end, so that a sweep that is under way can stop early. None: it is cancelled.
    """
    end = asyncio.Event() if closing is None else closing

    async def run() -> None:
        while not end.is_set():
            try:
                if count := await sweep():
                    logger.info("%d %s deleted", count, what)
            except StoreUnavailable:
                logger.warning("%s could not be deleted; trying again later", what)
            await first(end, seconds)

    sweeper = asyncio.create_task(run())
    try:
        yield
    finally:
        end.set()
        if closing is None:
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)
        else:
            await sweeper
