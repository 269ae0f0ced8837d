"""Items of one task at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


async def map_bounded(
    call: Callable[[Given], Awaitable[Made]], items: Sequence[Given], limit: int
) -> list[Made]:
    """`call` over all items, at most `limit` at once, answers in order.

    The first error cancels the rest, waits for them to end, and is raised.
    """
    if len(items) == 1:
        return [await call(items[0])]
    gate = asyncio.Semaphore(limit)

    async def one(item: Given) -> Made:
        async with gate:
            return await call(item)

    running = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
