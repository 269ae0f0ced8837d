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
    sweep: Callable[[], Awaitable[int]], what: str, seconds: float, closing: asyncio.Event
) -> AsyncIterator[None]:
    """Call `sweep` at once and then every `seconds`, while the block lasts. It returns how many it deleted.

    `closing` is set at the end, so that a sweep that is under way can stop early.
    """

    async def run() -> None:
        while not closing.is_set():
            try:
                if count := await sweep():
                    logger.info("%d %s deleted", count, what)
            except StoreUnavailable:
                logger.warning("%s could not be deleted; trying again later", what)
            await first(closing, seconds)

    sweeper = asyncio.create_task(run())
    try:
        yield
    finally:
        closing.set()
        await sweeper
