"""gRPC streams to model versions, kept open from one request to the next: opening one takes a millisecond.

A stream carries one request at a time, because cancelling it cancels all that it carries. Triton does not end
the process of an unloaded model while a stream that ever reached it is open: `close` comes before unloading.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from api.back.cluster.messages import RETRY_SECONDS
from api.errors import Unavailable

MOST_KEPT = 64  # idle streams to one version

Held = tuple[str, int]  # a model and a version, as a server holds it


async def write(stream: Any, request: Any) -> None:
    """Send on a stream, which may have ended since it was taken. Raises AioRpcError, Unavailable."""
    try:
        await stream.write(request)
    except asyncio.InvalidStateError:
        raise Unavailable("the connection to the model server was lost", RETRY_SECONDS) from None


class KeptStreams:
    def __init__(self, open_stream: Callable[[], Any]) -> None:
        """`open_stream` makes a `grpc.aio.StreamStreamCall`."""
        self._open_stream = open_stream
        self._idle: dict[Held, list[Any]] = {}

    def take(self, held: Held) -> Any:
        """A stream on which nothing is under way."""
        idle = self._idle.get(held, [])
        while idle:
            stream = idle.pop()
            if not stream.done():
                return stream
        return self._open_stream()

    def keep(self, held: Held, stream: Any) -> None:
        """Take back a stream whose request has its last response."""
        idle = self._idle.setdefault(held, [])
        if stream.done():
            return
        if len(idle) < MOST_KEPT:
            idle.append(stream)
        else:
            stream.cancel()

    def close(self, held: Held | None = None) -> None:
        """End the idle streams to one version, or all."""
        for one in [held] if held is not None else list(self._idle):
            for stream in self._idle.pop(one, []):
                stream.cancel()
