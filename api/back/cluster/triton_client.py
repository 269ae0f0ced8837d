"""A model server as its clients see it: load, unload, and requests that end with exactly one outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from api import tracing
from api.back.cluster.messages import (
    RETRY_SECONDS,
    head_request,
    read_answer,
    read_heads,
    read_load_error,
    read_rpc_error,
)
from api.back.cluster.records import HeadAnswer, ModelVersion
from api.back.cluster.session import Session
from api.back.cluster.triton_command import GRPC_PREFIX, KEY_HEADER
from api.errors import ApiError, Unavailable
from api.log_context import LogContext
from runtime.commands import Submit
from runtime.contract import Kind, Operation
from runtime.manifest import GoldenPrompt, Manifest
from runtime.messages import Answer, Generated, Timings
from runtime.parameters import MOST_URGENT

PROBE_TEXT = GoldenPrompt("The")  # where the artifact brings no golden prompt
EXITING = "Server exiting"  # what Triton says of itself while it lets its requests end
ENDING_SECONDS = 300.0  # that a server elsewhere may take for that; it has a limit of its own, and ends then
LIVE_SECONDS = 1.0  # for the server to answer whether it lives
PROBE_CALLER = "lmaas-probe"  # to the engine's fair queue: a probe waits at most one turn of each caller
CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A restarted Triton has the same address; without this option it would get the old, broken connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # Triton runs on this machine: `http_proxy` does not apply
]


@dataclass(slots=True, eq=False)
class _InFlight:
    """A request whose answer has not ended."""

    model_version: ModelVersion
    call: Any = None  # its own, where it does not go over a session
    failure: ApiError | None = None  # why `call` was cancelled
    done: asyncio.Event = field(default_factory=asyncio.Event)


class TritonClient:
    """The gRPC side of one running Triton; a restarted Triton gets a new one."""

    def __init__(self, address: str, key: str) -> None:
        """`key` is the one that Triton wants for loading and unloading."""
        self.address = address
        self.gone = asyncio.Event()
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._sessions: dict[ModelVersion, list[Session]] = {}  # the last one takes requests
        self._in_flight: set[_InFlight] = set()
        self._metadata = ((f"{GRPC_PREFIX}{KEY_HEADER}", key),)

    def outstanding(self, model_version: ModelVersion | None = None) -> int:
        """Requests in flight, to one model version or to all."""
        return sum(1 for each in self._in_flight if model_version in (None, each.model_version))

    @property
    def num_sessions(self) -> int:
        """Those that are open."""
        return sum(not each.is_over for sessions in self._sessions.values() for each in sessions)

    async def load(self, model: str, timeout: float | None) -> None:
        """Load every version in the repository that is new or changed; the others keep serving.

        `timeout` is in seconds, None: no limit. Raises ServerFault with Triton's reason, Unavailable,
        DeadlineExceeded.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        try:
            await self._control(self._stub.RepositoryModelLoad, request, timeout)
        except grpc.aio.AioRpcError as error:
            raise read_load_error(error) from None

    async def unload(self, model: str, timeout: float) -> None:
        """Unload all versions of a model. Returns at once, while Triton lets running requests end."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        try:
            await self._control(self._stub.RepositoryModelUnload, request, timeout)
        except grpc.aio.AioRpcError as error:
            raise read_rpc_error(error) from None

    async def live(self, timeout: float | None, *, wait_for_ready: bool = True) -> bool:
        """Whether the server itself answers, even if its models do not.

        Without `wait_for_ready`, it is False at once where nothing listens.
        """
        request = service_pb2.ServerLiveRequest()
        try:
            await self._control(self._stub.ServerLive, request, timeout, wait_for_ready)
        except (grpc.aio.AioRpcError, Unavailable):
            return False
        return True

    async def is_ending(self) -> bool:
        """Whether the server lets its requests end, and then ends: it answers, and says that."""
        if self.gone.is_set():
            return False
        try:
            await self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=LIVE_SECONDS)
        except grpc.aio.AioRpcError as error:
            return EXITING in (error.details() or "")
        except asyncio.CancelledError:  # gRPC's word for a channel that closes, too
            if not self.gone.is_set():
                raise
        return False

    async def loaded(self, timeout: float) -> list[ModelVersion]:
        """What Triton calls ready, also where its process is dead. Raises the family of api/errors.py."""
        request = service_pb2.RepositoryIndexRequest(ready=True)
        try:
            index = await self._control(self._stub.RepositoryIndex, request, timeout)
        except grpc.aio.AioRpcError as error:
            raise read_rpc_error(error) from None
        return [(model.name, int(model.version)) for model in index.models]

    async def _control(
        self, method: Any, request: Any, timeout: float | None, wait_for_ready: bool = True
    ) -> Any:
        self._require_here()  # a channel that is closed takes no call
        options = {"timeout": timeout, "wait_for_ready": wait_for_ready, "metadata": self._metadata}
        try:
            return await method(request, **options)
        except asyncio.CancelledError:
            if not self.gone.is_set():
                raise
            # gRPC reports "cancelled" for each call on a channel that closes.
            raise Unavailable("the model server is restarting", RETRY_SECONDS) from None

    async def generate(
        self,
        model_version: ModelVersion,
        *,
        prompt: str | Sequence[int],
        parameters: Mapping[str, Any],
        operation: Operation,
        stream: bool,
    ) -> AsyncGenerator[Answer, None]:
        """The answer, or its pieces; closing the generator cancels the request in the engine."""
        log_id = LogContext.current().request_id or ""
        command = Submit(prompt, operation, parameters, stream, log_id)
        answer: Answer | None = None
        with self._count(model_version), self._span(operation.value, model_version) as span:
            async with aclosing(self._session(model_version).submit(command)) as answers:
                async for details in answers:
                    answer = read_answer(operation, details)
                    yield answer
            if isinstance(answer, Generated) and answer.timings is not None:
                _trace_engine(span, answer.timings)

    def _span(self, operation: str, model_version: ModelVersion) -> tracing.Span:
        """That of a request, with OpenTelemetry's names for remote calls."""
        span = tracing.current().child(f"triton {operation}", client=True)
        host, _, port = self.address.rpartition(":")
        model, version = model_version
        values = {"rpc.system": "grpc", "server.address": host, "server.port": port}
        span.set({**values, "lmaas.model": model, "lmaas.model.version": version})
        return span

    def _session(self, model_version: ModelVersion) -> Session:
        """The session with a version that takes requests."""
        sessions = [each for each in self._sessions.get(model_version, []) if not each.is_over]
        if not sessions or sessions[-1].is_full:
            sessions.append(Session(model_version, self._stub.ModelStreamInfer))
        self._sessions[model_version] = sessions
        return sessions[-1]

    async def classify(
        self,
        model_version: ModelVersion,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None,
        temperature: float | None = None,
        special_tokens: bool = True,
    ) -> list[HeadAnswer]:
        """One request, with one answer for each text. Cancelling the awaiting task cancels it."""
        log_id = LogContext.current().request_id or ""
        with self._count(model_version) as in_flight, self._span("classify", model_version):
            request = head_request(*model_version, texts, text_pairs, log_id, temperature, special_tokens)
            in_flight.call = self._stub.ModelInfer(request)
            try:
                return read_heads(await in_flight.call)
            except grpc.aio.AioRpcError as error:
                raise in_flight.failure or read_rpc_error(error) from None
            except asyncio.CancelledError:
                if in_flight.failure is None:
                    raise
                raise in_flight.failure from None

    async def probe(self, model_version: ModelVersion, manifest: Manifest) -> None:
        """The smallest real inference. Raises the family of api/errors.py."""
        prompt = manifest.golden[0] if manifest.golden else PROBE_TEXT
        if manifest.kind is not Kind.LM:
            pairs = None if prompt.text_pair is None else [prompt.text_pair]
            await self.classify(model_version, [prompt.text], pairs)
            return
        urgent = {"priority": MOST_URGENT, "caller": PROBE_CALLER}
        answer = self.generate(
            model_version,
            prompt=prompt.text,
            parameters={"max_tokens": 1, "temperature": 0.0, **urgent},
            operation=Operation.GENERATE,
            stream=False,
        )
        async with aclosing(answer):
            async for _ in answer:
                pass

    def _require_here(self) -> None:
        if self.gone.is_set():
            raise Unavailable("the model server is restarting", RETRY_SECONDS)

    @contextmanager
    def _count(self, model_version: ModelVersion) -> Iterator[_InFlight]:
        """A request that is in flight while the context lasts."""
        self._require_here()
        in_flight = _InFlight(model_version)
        self._in_flight.add(in_flight)
        try:
            yield in_flight
        finally:
            self._in_flight.discard(in_flight)
            in_flight.done.set()

    def abort(self, failure: ApiError, model_version: ModelVersion | None = None) -> None:
        """Fail the requests in flight to one model version, or to all, and end its sessions.

        Triton never ends the requests of a process that died. And it does not end the process of an unloaded
        model while a gRPC stream is open that ever reached it.
        """
        for each in [model_version] if model_version is not None else list(self._sessions):
            for session in self._sessions.pop(each, []):
                session.close(failure)
        for in_flight in list(self._in_flight):
            if in_flight.call is not None and model_version in (None, in_flight.model_version):
                in_flight.failure = failure
                in_flight.call.cancel()

    async def idle(self, seconds: float, model_version: ModelVersion | None = None) -> None:
        """Wait until no request of now is in flight, to one model version or to all; `seconds` at most."""
        flights = [each for each in self._in_flight if model_version in (None, each.model_version)]
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(each.done.wait() for each in flights)), seconds)

    async def drain(self, model_version: ModelVersion, seconds: float) -> None:
        """Wait for the requests in flight to a model version, then fail those that are left."""
        await self.idle(seconds, model_version)
        self.abort(Unavailable(f"{model_version[0]}/{model_version[1]} was undeployed"), model_version)

    async def close(self) -> None:
        """The process is gone: fail what is in flight, and accept nothing more."""
        self.gone.set()
        self.abort(Unavailable("the model server died", RETRY_SECONDS))
        await self._channel.close()


def _trace_engine(span: tracing.Span, timings: Timings) -> None:
    """The parts of a request's time in the engine, which has just ended, as spans within that of the call."""
    if span.trace_id is None:
        return
    moment = time.time_ns()
    parts = {
        "decode": timings.decode_seconds,
        "prefill": timings.prefill_seconds,
        "queue": timings.queue_seconds,
    }
    for name, seconds in parts.items():
        begin = moment - int(seconds * 1e9)
        span.child(f"engine {name}", begin=begin).end(at=moment)
        moment = begin
