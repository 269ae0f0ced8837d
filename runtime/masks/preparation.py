"""Requests whose grammar is compiled before the core sees them, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from runtime.contract import Fault, FaultCode
from runtime.errors import RequestFault
from runtime.masks.client import MaskServer
from runtime.request_state import RequestState

logger = logging.getLogger(__name__)


class Preparations:
    """Compiles one grammar at a time, in the order of arrival. Thread-safe.

    Each request leaves by exactly one of `ready` and `failed`.
    """

    def __init__(
        self,
        server: MaskServer,
        ready: Callable[[RequestState], None],
        failed: Callable[[RequestState, Fault], None],
        most_open: int,
    ) -> None:
        """While `most_open` requests have a process, others wait."""
        self._server = server
        self._ready = ready
        self._failed = failed
        self._states: dict[str, RequestState] = {}
        self._most_open = most_open
        self._open = 0
        self._changed = threading.Condition()  # guards the requests and their number
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="lmaas-grammar")

    def add(self, state: RequestState) -> None:
        with self._changed:
            self._states[state.request.request_id] = state
        self._executor.submit(self._prepare, state)

    def abort(self, request_id: str, fault: Fault) -> bool:
        """Fail the request if it is here; whether it was."""
        with self._changed:
            state = self._states.pop(request_id, None)
            self._changed.notify_all()
        if state is not None:
            self._failed(state, fault)
        return state is not None

    def close(self, fault: Fault) -> None:
        """Fail the requests that are here, and end the server of masks."""
        for request_id in list(self._states):
            self.abort(request_id, fault)
        self._executor.shutdown()
        self._server.close()

    def _prepare(self, state: RequestState) -> None:
        request_id, grammar = state.request.request_id, state.request.parameters.grammar
        with self._changed:
            self._changed.wait_for(lambda: self._open < self._most_open or request_id not in self._states)
            if grammar is None or request_id not in self._states:
                return
            self._open += 1
        try:
            state.follow(self._server.open(grammar, len(state.sequences), self._close_one))
        except Exception as error:
            self._close_one()
            self.abort(request_id, self._fault(error, state))
            return
        with self._changed:  # an abort comes before `ready`, or after it
            if self._states.pop(request_id, None) is not None:
                self._ready(state)
                return
        state.close_masks()

    def _close_one(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def _fault(self, error: Exception, state: RequestState) -> Fault:
        if isinstance(error, RequestFault):
            return error.fault
        named = {"request_id": state.request.log_id}
        logger.error("a grammar could not be compiled", exc_info=error, extra=named)
        return Fault(FaultCode.INTERNAL, "the grammar could not be compiled; the server's log says why")
