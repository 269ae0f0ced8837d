"""The drills of two façades of one machine with PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping

import httpx

from bench.drills.site import Drill, Site
from perf.errors import LoadError

LASTS_SECONDS = 10.0
STREAMS = 48
STREAM = {"prompt": "Once upon a time", "max_tokens": 200, "ignore_eos": True, "stream": True}


async def kill_one(site: Site) -> None:
    pid = int((site.home / "facade-1" / "lock").read_text())
    os.kill(pid, signal.SIGKILL)


async def kill_parent(site: Site) -> None:
    site.facade.kill()
    site.facade.start()


async def stop_amid_streams(site: Site) -> float:
    """Until the process has ended. Each stream that was accepted has to come to its end."""
    begun = asyncio.Semaphore(0)
    limits = httpx.Limits(max_connections=STREAMS)
    async with httpx.AsyncClient(trust_env=False, timeout=60.0, limits=limits) as client:

        async def read() -> bool:
            text = ""
            async with client.stream("POST", f"{site.facade.url}/v1/generate", json=STREAM) as response:
                async for part in response.aiter_text():
                    if not text:
                        begun.release()
                    text += part
            return '"usage":{' in text

        streams = [asyncio.create_task(read()) for _ in range(STREAMS)]
        for _ in streams:
            await asyncio.wait_for(begun.acquire(), 60.0)
        begin = time.monotonic()
        await asyncio.to_thread(site.facade.stop)
        seconds = time.monotonic() - begin
        whole = await asyncio.gather(*streams, return_exceptions=True)
    if whole != [True] * STREAMS:
        raise LoadError(f"{STREAMS - whole.count(True)} of {STREAMS} streams did not come to their end")
    site.facade.start()
    return seconds


async def kill_postgres(site: Site) -> None:
    site.postgres.kill()
    await asyncio.sleep(LASTS_SECONDS)
    await asyncio.to_thread(site.postgres.restart)


async def halt_postgres(site: Site) -> None:
    site.postgres.halt()
    try:
        await asyncio.sleep(LASTS_SECONDS)
    finally:
        site.postgres.resume()


SHARED: Mapping[str, Drill] = {
    "one of two façades dies": kill_one,
    "their parent dies, and is started at once": kill_parent,
    "they are stopped amid 48 streams": stop_amid_streams,
    "PostgreSQL dies, started after 10 s": kill_postgres,
    "PostgreSQL is silent, 10 s": halt_postgres,
}
