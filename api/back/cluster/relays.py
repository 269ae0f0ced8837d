"""Relays: the pieces of many streamed answers on one gRPC stream, as `RelayParameters` describes them.

A piece on a stream of its own costs Triton, gRPC and this process about a millisecond of a core together, and
the engine uses all cores.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import uuid
from collections.abc import Callable
from typing import Any

import grpc

from api.back.cluster.messages import read_content, relay_request
from api.back.cluster.streams import Held
from api.errors import ApiError, Unavailable

Taker = Callable[[Any], None]  # takes the `details` of a piece, or the ApiError that ends the relay

logger = logging.getLogger(__name__)


class Relay:
    """One to a model version. Its pieces go to whoever joined under their key."""

    def __init__(self, held: Held, stream: Any) -> None:
        self.name = uuid.uuid4().hex
        self.is_open = False
        self._stream = stream
        self._keys = itertools.count()
        self._takers: dict[int, Taker] = {}
        self._reading = asyncio.create_task(self._read(held))

    @property
    def ended(self) -> bool:
        return self._reading.done()

    def join(self, taker: Taker) -> int:
        """The key for a request whose pieces are to go to `taker`."""
        key = next(self._keys)
        self._takers[key] = taker
        return key

    def leave(self, key: int) -> None:
        self._takers.pop(key, None)

    def close(self) -> None:
        self._reading.cancel()

    async def _read(self, held: Held) -> None:
        reason = "the model server ended the relay"
        try:
            await self._stream.write(relay_request(*held, self.name))
            while (response := await self._stream.read()) is not grpc.aio.EOF:
                if response.error_message:
                    reason = response.error_message
                    break
                self._deal(read_content(response.infer_response))
        except grpc.aio.AioRpcError as error:
            reason = error.details() or reason
        finally:
            self.is_open = False
            self._stream.cancel()
            self._fail(Unavailable(f"{held[0]}/{held[1]}: {reason}"))

    def _deal(self, content: bytes | None) -> None:
        if content is None:
            return
        self.is_open = True
        for key, details in json.loads(content):
            if (taker := self._takers.get(key)) is not None:
                taker(details)

    def _fail(self, failure: ApiError) -> None:
        if self._takers:
            logger.warning("%s", failure.detail)
        for taker in self._takers.values():
            taker(failure)


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

    def close(self, held: Held | None = None) -> None:
        """End the relay to one version, or all."""
        for one in [held] if held is not None else list(self._relays):
            if (relay := self._relays.pop(one, None)) is not None:
                relay.close()
