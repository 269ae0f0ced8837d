"""Sessions: the answers of all requests of one client in the responses of one request.

The protocol is that of `runtime/commands.py`. A response costs every process on its way about the same,
whether it holds one answer or thirty: so what is due to several requests of a client goes into one.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import triton_python_backend_utils as pb_utils

from runtime.commands import SESSION
from runtime.contract import Fault, FaultCode, LmTensors
from runtime.errors import RequestFault
from runtime.messages import Answer
from runtime.triton.outputs import as_json, details_tensor

logger = logging.getLogger(__name__)


class Session:
    """The messages to one client.

    | thread   | does                                              |
    | -------- | ------------------------------------------------- |
    | output   | adds and flushes the messages of the engine       |
    | Triton's | registers requests, refuses some by a message     |
    | watch    | ends the session when its client has cancelled it |
    """

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._messages: deque[str] = deque()
        self._request_ids: dict[int, str] = {}  # of the requests under way, by key
        # The sender must not be used after the last response: Triton has released it by then.
        self._sending = threading.Lock()
        self.over = False

    def require_unused(self, keys: Sequence[int]) -> None:
        """Raises RequestFault where a request under way has one of the keys, or two have the same."""
        for number, key in enumerate(keys):
            if key in self._request_ids or key in keys[:number]:
                raise RequestFault.invalid(LmTensors.TEXT_INPUT, f"key {key} is in use in this session")

    def register(self, key: int, request_id: str) -> SessionSink:
        """The sink of a request. When it is submitted and `over` is set by then, it has to be aborted."""
        self._request_ids[key] = request_id
        return SessionSink(self, key)

    def request_id(self, key: int) -> str | None:
        """None where no request with that key is under way."""
        return self._request_ids.get(key)

    def forget(self, key: int) -> None:
        """The request has had its last message, or was not accepted."""
        self._request_ids.pop(key, None)

    def add(self, key: int, message: str) -> None:
        """`message` is JSON; the next flush sends it."""
        if not self.over:
            self._messages.append(f"[{key},{message}]")

    def flush(self) -> None:
        """Send what was added, in one response."""
        with self._sending:
            messages = [self._messages.popleft() for _ in range(len(self._messages))]
            if messages and not self.over:
                content = details_tensor(f"[{','.join(messages)}]")
                self._sender.send(pb_utils.InferenceResponse(output_tensors=[content]))

    def is_cancelled(self) -> bool:
        with self._sending:
            return not self.over and bool(self._sender.is_cancelled())

    def end(self) -> list[str]:
        """Send the last response. Returns the ids of the requests that are still under way."""
        with self._sending:
            if self.over:
                return []
            self.over = True
            try:
                self._sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            except Exception:
                logger.exception("the last response of a session could not be sent")
        return list(self._request_ids.values())


class SessionSink:
    """The sink of one request of a session."""

    def __init__(self, session: Session, key: int) -> None:
        self._session = session
        self._key = key

    def send(self, answer: Answer, *, final: bool) -> None:
        self._session.add(self._key, as_json(answer.to_json()))
        if final:
            self._session.forget(self._key)

    def fail(self, fault: Fault) -> None:
        self._session.add(self._key, json.dumps(fault.encode()))
        self._session.forget(self._key)


class Sessions:
    """The open sessions, by the names that their clients gave them."""

    def __init__(self, abort: Callable[[str], None]) -> None:
        """`abort` is called with the id of each request whose session ended."""
        self._abort = abort
        self._sessions: dict[str, Session] = {}
        self._changing = threading.Lock()

    def open(self, name: str, sender: Any) -> None:
        """Raises RequestFault where a session of that name is open."""
        with self._changing:
            if name in self._sessions:
                raise RequestFault.invalid(SESSION, f"{name} is open already")
            self._sessions[name] = Session(sender)

    def find(self, name: str) -> Session:
        """Raises RequestFault where no session of that name is open."""
        session = self._sessions.get(name)
        if session is None:
            raise _not_open()
        return session

    def flush(self) -> None:
        for name, session in list(self._sessions.items()):
            if not _succeeds(session.flush, name):  # messages are lost: the client learns it from the end
                self._end(name, session)

    def end_cancelled(self) -> None:
        """End the sessions whose clients have cancelled them or are gone."""
        for name, session in list(self._sessions.items()):
            _succeeds(partial(self._end_if_cancelled, name, session), name)

    def close(self) -> None:
        for name, session in list(self._sessions.items()):
            self._end(name, session)

    def _end_if_cancelled(self, name: str, session: Session) -> None:
        if session.is_cancelled():
            self._end(name, session)

    def _end(self, name: str, session: Session) -> None:
        with self._changing:
            if self._sessions.get(name) is session:
                del self._sessions[name]
        for request_id in session.end():
            self._abort(request_id)


def _succeeds(action: Callable[[], None], name: str) -> bool:
    """An error of one session must not reach the others."""
    try:
        action()
    except Exception:
        logger.exception("session %s could not be served", name)
        return False
    return True


def _not_open() -> RequestFault:
    return RequestFault.of(FaultCode.UNAVAILABLE, "the session is not open")
