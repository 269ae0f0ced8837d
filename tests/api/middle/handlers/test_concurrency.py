from __future__ import annotations

import asyncio

import pytest

from api.middle.handlers.base import map_bounded
from tests.api.asgi import until
from tests.api.conftest import Run


def test_order_and_bound(run: Run) -> None:
    async def test() -> None:
        running = most = 0

        async def call(number: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(number % 3):
                await asyncio.sleep(0)
            running -= 1
            return number * 2

        assert await map_bounded(call, range(20), 4) == [number * 2 for number in range(20)]
        assert most == 4

    run(test)


def test_the_first_error_ends_the_rest(run: Run) -> None:
    async def test() -> None:
        ended = []

        async def call(number: int) -> None:
            try:
                if number == 2:
                    raise ValueError("two")
                await asyncio.Event().wait()
            finally:
                ended.append(number)

        with pytest.raises(ValueError, match="two"):
            await map_bounded(call, range(4), 4)
        assert sorted(ended) == [0, 1, 2, 3]

    run(test)


def test_a_cancelled_call_ends_its_items(run: Run) -> None:
    async def test() -> None:
        running = 0

        async def call(number: int) -> None:
            nonlocal running
            running += 1
            try:
                await asyncio.Event().wait()
            finally:
                running -= 1

        task = asyncio.ensure_future(map_bounded(call, range(4), 2))
        await until(lambda: running >= 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert running == 0

    run(test)
