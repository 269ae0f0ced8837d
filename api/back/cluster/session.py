"""A session with a model version: all its requests, and their answers, on one gRPC stream.

`runtime/commands.py` describes the protocol. Each request and each response wakes every process on its way
while the engine uses all cores. So what waits while one is written goes together into the next, in both
directions (bench/LOG.md).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

import grpc

from api.back.cluster.messages import (
    ENDING,
    RETRY_SECONDS,
    read_error,
    read_rpc_error,
    read_session_messages,
    session_request,
)
from api.back.cluster.records import ModelVersion
from api.errors import ApiError, ServerFault, Unavailable
from runtime.commands import Submit, encode, join

# Triton keeps all responses of a request in memory until the request ends, and a session is one request. When
# its responses exceed this size, the session takes no more requests, and the next request opens another one.
MAX_SESSION_BYTES = 2**21
MAX_COMMANDS_BYTES = 2**20  # of a request, unless a single command is larger
RESPONSE_BYTES = 1024  # of a response in Triton, beside its content
Message = dict[str, Any] | ApiError  # the `details` of an answer, or why the request failed

logger = logging.getLogger(__name__)


class Session:
    def __init__(self, model_version: ModelVersion, open_stream: Callable[[AsyncIterator[Any]], Any]) -> None:
        """`open_stream` makes a `grpc.aio.StreamStreamCall` that sends what the iterator brings."""
        self._model_version = model_version
        self._name = uuid.uuid4().hex
        self._keys = itertools.count(1)
        self._messages: dict[int, asyncio.Queue[Message]] = {}  # to each request under way
        self._received_bytes = 0
        self._failure: ApiError | None = None  # why it ended
        self._commands: deque[tuple[int, bytes]] = deque()  # with the keys of their requests
        self._request_names = itertools.count(1)  # of what is sent with commands
        self._brought_by: dict[int, str] = {}  # which of these brought the latest command of each request
        self._refuses = False  # the server has refused commands, as it does while it ends
        self._has_news = asyncio.Event()  # a command to send, or the end
        self._stream = open_stream(self._sending())
        self._reading = asyncio.create_task(self._read())

    @property
    def is_over(self) -> bool:
        return self._failure is not None

    @property
    def is_full(self) -> bool:
        """It takes no more requests, and ends when those under way have ended."""
        return self._refuses or self._received_bytes > MAX_SESSION_BYTES

    async def submit(self, command: Submit) -> AsyncGenerator[dict[str, Any], None]:
        """The `details` of each answer; closing the generator cancels the request in the engine.

        Raises the family of api/errors.py.
        """
        if self._failure is not None:
            raise self._failure
        key = next(self._keys)
        self._send(key, command)
        messages = self._messages[key] = asyncio.Queue()
        under_way = True
        try:
            while under_way:
                message = await messages.get()
                if isinstance(message, ApiError):
                    under_way = False
                    raise message
                under_way = message.get("usage") is None  # the last answer has it
                yield message
        finally:
            del self._messages[key]
            self._brought_by.pop(key, None)
            if under_way:
                self._send(key, None)
            self._end_if_full()

    def close(self, failure: ApiError) -> None:
        """End the session; the requests under way fail with `failure`, and are cancelled in the engine."""
        self._end(failure)
        self._reading.cancel()

    def _send(self, key: int, command: Submit | None) -> None:
        self._commands.append((key, encode(key, command)))
        self._has_news.set()

    async def _sending(self) -> AsyncIterator[Any]:
        """gRPC allows one write at a time on a stream; it takes the next request when the last is written."""
        yield session_request(*self._model_version, self._name)
        while self._failure is None:
            if self._commands:
                name = f"commands {next(self._request_names)}"
                commands = join(self._next_commands(name))
                yield session_request(*self._model_version, self._name, commands, name)
            else:
                self._has_news.clear()
                await self._has_news.wait()

    def _next_commands(self, name: str) -> Iterator[bytes]:
        size = 0
        while self._commands and (not size or size + len(self._commands[0][1]) <= MAX_COMMANDS_BYTES):
            key, command = self._commands.popleft()
            size += len(command)
            if key in self._messages:
                self._brought_by[key] = name
            yield command

    async def _read(self) -> None:
        failure: ApiError = Unavailable("the model server ended the session", RETRY_SECONDS)
        try:
            async for response in self._stream:
                self._received_bytes += response.ByteSize() + RESPONSE_BYTES
                self._receive(response)
                self._end_if_full()
        except grpc.aio.AioRpcError as error:
            failure = read_rpc_error(error)
        except ApiError as error:
            failure = error
        except Exception:
            logger.exception("a response of the session with %s/%d could not be read", *self._model_version)
            failure = ServerFault("a response of the model server could not be read")
        finally:
            if self._failure is None:
                logger.warning("the session with %s/%d ended: %s", *self._model_version, failure.detail)
            self._end(failure)

    def _receive(self, response: Any) -> None:
        """Raises ApiError where the session itself has ended."""
        if response.error_message:
            failure = read_error(response.error_message)
            if not response.infer_response.id or not ENDING.search(response.error_message):
                raise failure
            self._refuse(response.infer_response.id, failure)
            return
        messages = read_session_messages(response.infer_response)
        if messages is None:
            raise Unavailable("the model server ended the session", RETRY_SECONDS)
        for key, message in messages:
            self._deliver(key, message)

    def _refuse(self, name: str, failure: ApiError) -> None:
        """Fail the requests whose commands were refused; those before them go on."""
        self._refuses = True
        for key, bringer in self._brought_by.items():
            if bringer == name:
                self._deliver(key, failure)

    def _deliver(self, key: int, message: Message) -> None:
        if key in self._messages:  # else the request was cancelled here, or has had its last message
            self._messages[key].put_nowait(message)

    def _end_if_full(self) -> None:
        if self.is_full and not self._messages:
            self._end(Unavailable("the session is full", RETRY_SECONDS))

    def _end(self, failure: ApiError) -> None:
        """Only the first call has an effect."""
        if self._failure is None:
            self._failure = failure
            self._stream.cancel()
            self._has_news.set()  # cancelling ends `_sending` only where the stream was still open
            for messages in self._messages.values():
                messages.put_nowait(failure)
