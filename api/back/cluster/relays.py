"""Relays: the pieces of many streamed answers on one gRPC stream, as `RelayParameters` describes them.

A piece on a stream of its own wakes every process on its way, and the engine uses all cores (perf/LOG.md).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from api.back.cluster.messages import (
    RETRY_SECONDS,
    name_relay,
    read_content,
    read_error,
    read_rpc_error,
    relay_request,
)
from api.back.cluster.streams import Held, write
from api.errors import ApiError, Unavailable

Taker = Callable[[Any], None]  # takes the `details` of a piece, or the ApiError that ends the relay

logger = logging.getLogger(__name__)


class Relay:
    """One to a model version. Its pieces go to whoever took their key."""

    def __init__(self, held: Held, stream: Any) -> None:
        self.name = uuid.uuid4().hex
        self.is_open = False
        self._stream = stream
        self._keys = itertools.count()
        self._takers: dict[int, Taker] = {}
        self._closed: ApiError | None = None  # why we ended it
        self._reading = asyncio.create_task(self._read(held))

    @property
    def ended(self) -> bool:
        return self._reading.done()

    @contextmanager
    def carrying(self, request: Any, taker: Taker) -> Iterator[None]:
        """Have all answers to `request`, which is not sent yet, but its last come to `taker`."""
        key = next(self._keys)
        name_relay(request, self.name, key)
        self._takers[key] = taker
        try:
            yield
        finally:
            del self._takers[key]

    def close(self, failure: ApiError) -> None:
        """End it; those whose pieces it brings fail with `failure`."""
        self._closed = failure
        self._reading.cancel()
        self._stream.cancel()  # a task that is cancelled before it began does nothing

    async def _read(self, held: Held) -> None:
        failure: ApiError = Unavailable("the model server ended a relay", RETRY_SECONDS)
        try:
            await write(self._stream, relay_request(*held, self.name))
            while (content := await self._next()) is not None:
                self._deal(content)
        except grpc.aio.AioRpcError as error:
            failure = read_rpc_error(error)
        except ApiError as error:
            failure = error
        finally:
            self.is_open = False
            self._stream.cancel()
            self._fail(held, failure)

    async def _next(self) -> bytes | None:
        """Pieces; None where there will be no more."""
        response = await self._stream.read()
        if response is grpc.aio.EOF:
            return None
        if response.error_message:
            raise read_error(response.error_message)
        return read_content(response.infer_response)

    def _deal(self, content: bytes) -> None:
        self.is_open = True
        for key, details in json.loads(content):
            if (taker := self._takers.get(key)) is not None:
                taker(details)

    def _fail(self, held: Held, failure: ApiError) -> None:
        if self._closed is None:
            logger.warning("the relay to %s/%d ended: %s", *held, failure.detail)
        for taker in self._takers.values():
            taker(self._closed or failure)


class Relays:
    def __init__(self, open_stream: Callable[[], Any]) -> None:
        """`open_stream` makes a `grpc.aio.StreamStreamCall`."""
        self._open_stream = open_stream
        self._relays: dict[Held, Relay] = {}

    def to(self, held: Held) -> Relay | None:
        """The open relay to a version; None where it is not open yet, and begins to."""
        relay = self._relays.get(held)
        if relay is None or relay.ended:
            relay = self._relays[held] = Relay(held, self._open_stream())
        return relay if relay.is_open else None

    def close(self, failure: ApiError, held: Held | None = None) -> None:
        """End the relay to one version, or all, with what those who wait for it are told."""
        for one in [held] if held is not None else list(self._relays):
            if (relay := self._relays.pop(one, None)) is not None:
                relay.close(failure)
