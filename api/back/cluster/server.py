"""A model server as its clients see it: load, unload, and requests that end with exactly one outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from api.back.cluster.arrivals import Arrivals
from api.back.cluster.messages import (
    RETRY_SECONDS,
    generate_request,
    head_request,
    read_heads,
    read_load_error,
    read_rpc_error,
)
from api.back.cluster.records import HeadAnswer
from api.back.cluster.relays import Relays
from api.back.cluster.streams import Held, KeptStreams, write
from api.errors import ApiError, Unavailable
from runtime.contract import Operation

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A restarted Triton has its predecessor's address; without this it would inherit a broken connection.
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(slots=True, eq=False)
class _Flight:
    """A request on its way. Triton never ends one whose stub died, so `abort` must be able to."""

    held: Held
    call: Any = None
    # May wait for a connection, which no cancelling of `call` ends.
    sending: asyncio.Future[None] | None = None
    failure: ApiError | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def abort(self, failure: ApiError) -> None:
        self.failure = failure
        if self.call is not None:
            self.call.cancel()
        if self.sending is not None:
            self.sending.cancel()


class ModelServer:
    """The gRPC side of one running Triton; a restarted Triton gets a new one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.loaded: set[Held] = set()  # what was loaded here at least once
        self.gone = asyncio.Event()
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._streams = KeptStreams(self._stub.ModelStreamInfer)
        self._relays = Relays(self._stub.ModelStreamInfer)
        self._flights: set[_Flight] = set()

    def outstanding(self, held: Held | None = None) -> int:
        """Requests on their way, to one model version or to all."""
        return sum(1 for flight in self._flights if held in (None, flight.held))

    async def load(self, model: str, timeout: float) -> None:
        """Load every version in the repository that is new or changed; the others go on undisturbed.

        `timeout` is in seconds. Raises ServerFault with Triton's reason, Unavailable, DeadlineExceeded.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        try:
            await self._control(self._stub.RepositoryModelLoad, request, timeout)
        except grpc.aio.AioRpcError as error:
            raise read_load_error(error) from None

    async def unload(self, model: str, timeout: float) -> None:
        """Unload all versions of a model. Triton lets running requests end; it does not wait here."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        try:
            await self._control(self._stub.RepositoryModelUnload, request, timeout)
        except grpc.aio.AioRpcError as error:
            raise read_rpc_error(error) from None

    async def live(self, timeout: float) -> bool:
        """Whether the server itself answers, whatever its models do."""
        request = service_pb2.ServerLiveRequest()
        try:
            await self._control(self._stub.ServerLive, request, timeout)
        except (grpc.aio.AioRpcError, Unavailable):
            return False
        return True

    async def _control(self, method: Any, request: Any, timeout: float) -> None:
        self._require_here()  # a channel that is closed takes no call
        try:
            await method(request, timeout=timeout, wait_for_ready=True)
        except asyncio.CancelledError:
            if not self.gone.is_set():
                raise
            # gRPC says "cancelled" to everyone who waits on a channel that closes.
            raise Unavailable("the model server is restarting", RETRY_SECONDS) from None

    async def generate(
        self, held: Held, *, text: str, parameters: Mapping[str, Any], operation: Operation, stream: bool
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The `details` of each response; closing the generator cancels the request in the engine."""
        request = generate_request(
            *held, text=text, parameters=parameters, operation=operation, stream=stream
        )
        with self._flight(held) as flight:
            flight.call = call = self._streams.take(held)
            arrivals = Arrivals(call)
            relay = self._relays.to(held) if stream else None
            complete = False
            try:
                with relay.carrying(request, arrivals.put) if relay else nullcontext():
                    flight.sending = asyncio.ensure_future(write(call, request))
                    await flight.sending
                    while not complete:
                        details = await arrivals.next()
                        complete = details.get("usage") is not None  # the last response carries it
                        yield details
            finally:
                if complete:
                    self._streams.keep(held, call)
                else:
                    call.cancel()
                    arrivals.close()

    async def classify(
        self, held: Held, texts: Sequence[str], text_pairs: Sequence[str] | None
    ) -> list[HeadAnswer]:
        """One request, with one answer for each text. Cancelling the awaiting task cancels it."""
        with self._flight(held) as flight:
            flight.call = self._stub.ModelInfer(head_request(*held, texts, text_pairs))
            return read_heads(await flight.call)

    def _require_here(self) -> None:
        if self.gone.is_set():
            raise Unavailable("the model server is restarting", RETRY_SECONDS)

    @contextmanager
    def _flight(self, held: Held) -> Iterator[_Flight]:
        """Count the request, and turn whatever ends it into our own family."""
        self._require_here()
        flight = _Flight(held)
        self._flights.add(flight)
        try:
            yield flight
        except grpc.aio.AioRpcError as error:
            raise flight.failure or read_rpc_error(error) from None
        except asyncio.CancelledError:
            if flight.failure is None:
                raise
            raise flight.failure from None
        finally:
            self._flights.discard(flight)
            flight.done.set()

    def abort(self, failure: ApiError, held: Held | None = None) -> None:
        """Fail the requests on their way to one model version, or to all; no stream to it stays open."""
        self._streams.close(held)
        self._relays.close(failure, held)
        for flight in list(self._flights):
            if held in (None, flight.held):
                flight.abort(failure)

    async def drain(self, held: Held, seconds: float) -> None:
        """Wait for the requests on their way to a model version, then fail those that are left."""
        waiting = [flight.done.wait() for flight in self._flights if flight.held == held]
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*waiting), seconds)
        self.abort(Unavailable(f"{held[0]}/{held[1]} was undeployed"), held)

    async def close(self) -> None:
        """The process is gone: fail what is on its way, and take nothing more."""
        self.gone.set()
        self.abort(Unavailable("the model server died", RETRY_SECONDS))
        await self._channel.close()
