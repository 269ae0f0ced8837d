"""What is done to the appliance. Each fault is undone by itself; recovery is measured from its beginning."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.chaos.services import Postgres, S3Server
from bench.facades import Facade

STOPPED_SECONDS = 10.0  # longer than a probe may take
AWAY_SECONDS = 5.0
CUT_STREAMS = 20
BODY = b'{"prompt": "Once upon a time", "max_tokens": 200, "ignore_eos": true, "stream": true}'
ROOM_LEFT = 64 * 1024  # bytes, on a disk that is full


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    inflict: Callable[[], Awaitable[None]]


def of_one_facade(facade: Facade) -> list[Fault]:
    """What can happen to an appliance on one machine."""
    return [
        Fault("kill -9 of the process of mini-lm", lambda: _signal(facade.stub("mini-lm").pid)),
        Fault("kill -9 of Triton", lambda: _signal(facade.triton().pid)),
        Fault("kill -9 of the façade, started again", lambda: _kill_and_start(facade)),
        Fault(f"SIGSTOP of the process of mini-lm, {STOPPED_SECONDS:g} s", lambda: _stop(facade, "mini-lm")),
        Fault(f"SIGSTOP of Triton, {STOPPED_SECONDS:g} s", lambda: _stop(facade, None)),
        Fault(f"{CUT_STREAMS} connections cut in the middle of a stream", lambda: _cut(facade.url)),
    ]


def of_a_small_disk(facade: Facade) -> list[Fault]:
    """`facade` has its home on a file system of its own."""
    return [Fault(f"a full disk, {STOPPED_SECONDS:g} s", lambda: _fill(facade.home))]


def of_two_facades(pair: tuple[Facade, Facade], postgres: Postgres, s3: S3Server) -> list[Fault]:
    first, second = pair
    return [
        Fault("kill -9 of one of two façades, started again", lambda: _kill_and_start(first)),
        Fault("kill -9 of the Triton of the other", lambda: _signal(second.triton().pid)),
        Fault("kill -9 of PostgreSQL, started again", lambda: _kill_and_restart(postgres)),
        Fault(f"PostgreSQL silent, {STOPPED_SECONDS:g} s", lambda: _halt(postgres)),
        Fault(f"the blob store silent, {STOPPED_SECONDS:g} s", lambda: _halt(s3)),
        Fault(f"{CUT_STREAMS} connections cut in the middle of a stream", lambda: _cut(second.url)),
    ]


async def _signal(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


async def _kill_and_start(facade: Facade) -> None:
    facade.kill()
    await asyncio.sleep(AWAY_SECONDS)
    facade.start()


async def _kill_and_restart(postgres: Postgres) -> None:
    postgres.kill()
    await asyncio.sleep(AWAY_SECONDS)
    await asyncio.to_thread(postgres.restart)


async def _halt(server: Postgres | S3Server) -> None:
    server.halt()
    try:
        await asyncio.sleep(STOPPED_SECONDS)
    finally:
        server.resume()


async def _stop(facade: Facade, model: str | None) -> None:
    process = facade.triton() if model is None else facade.stub(model)
    process.suspend()
    try:
        await asyncio.sleep(STOPPED_SECONDS)
    finally:
        if process.is_running():  # healing may have ended it meanwhile
            process.resume()


async def _cut(url: str) -> None:
    """Callers that reset their connections amid an answer."""
    place = urlsplit(url)
    head = f"POST /v1/generate HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    with ExitStack() as stack:
        for _ in range(CUT_STREAMS):
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            stack.callback(writer.transport.abort)
            # Closing sends a reset then.
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            writer.write(request)
            await reader.readline()  # it is being answered


async def _fill(folder: Path) -> None:
    filler = folder / "filler"
    try:
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(folder).free - ROOM_LEFT))
        await asyncio.sleep(STOPPED_SECONDS)
    finally:
        filler.unlink()
