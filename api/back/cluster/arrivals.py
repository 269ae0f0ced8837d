"""The answers of one request, which come on its own stream and, but for the last, by a relay too."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from api.back.cluster.messages import RETRY_SECONDS, read_details, read_error
from api.errors import ApiError, Unavailable
from runtime.contract import RelayParameters


class Arrivals:
    """In the order in which they were made; which stream is first is chance."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._queue: asyncio.Queue[asyncio.Future[Any] | dict[str, Any] | ApiError] = asyncio.Queue()
        self._reading: asyncio.Future[Any] | None = None
        self._missing = 0  # relayed before the last, and not here yet; below 0 until the last is here
        self._last: dict[str, Any] | None = None
        self.put = self._queue.put_nowait

    async def next(self) -> dict[str, Any]:
        """The `details` of the next response; the last one comes after all that were relayed."""
        while self._last is None or self._missing > 0:
            if self._reading is None and self._last is None:
                self._reading = asyncio.ensure_future(self._call.read())
                self._reading.add_done_callback(self._note_read)
            arrival = await self._queue.get()
            if isinstance(arrival, ApiError):
                raise arrival
            if isinstance(arrival, dict):
                self._missing -= 1
                return arrival
            self._reading = None
            details = _details(arrival.result())
            if details is None:
                continue
            if details.get("usage") is None:
                return details
            self._missing += details.pop(RelayParameters.RELAYED, 0)
            self._last = details
        return self._last

    def close(self) -> None:
        """Nothing is wanted any more."""
        if self._reading is not None:
            self._reading.cancel()

    def _note_read(self, reading: asyncio.Future[Any]) -> None:
        if not reading.cancelled():
            reading.exception()  # taken note of, should nobody ask for the result
        self.put(reading)


def _details(response: Any) -> dict[str, Any] | None:
    if response is grpc.aio.EOF:
        raise Unavailable("the model server ended the answer early", RETRY_SECONDS)
    if response.error_message:
        raise read_error(response.error_message)
    return read_details(response.infer_response)
