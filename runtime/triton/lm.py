"""Kind `lm`: requests go to the engine at once, and its delivery thread sends the responses.

A request is answered on its own gRPC stream, or over a session (`runtime/commands.py`). Triton does not
report that a client has left: the watch thread asks, for each request on its own stream and for each session.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from runtime.commands import Command, Submit
from runtime.contract import DRAIN_VARIABLE, Fault, FaultCode
from runtime.errors import RequestFault
from runtime.load import load_engine
from runtime.messages import Answer
from runtime.triton.inputs import read_commands, read_lm, read_session, request_of
from runtime.triton.metrics import EngineMetrics
from runtime.triton.outputs import ResponseBuilder, error_response
from runtime.triton.session import Session, Sessions

logger = logging.getLogger(__name__)

CANCEL_POLL_SECONDS = 0.05
ASKED_PER_SECOND = 100  # limit of the questions whether a request was cancelled: each one crosses processes
SESSION_POLL_SECONDS = 0.25
METRICS_SECONDS = 1.0
DRAIN_SECONDS = 10.0  # where DRAIN_VARIABLE says nothing else
LOG_SECONDS = 0.5  # for the last lines to reach Triton's log
UNREADABLE = Fault(FaultCode.INTERNAL, "the request could not be read")
STALLED_STATUS = 70  # of the process, as EX_SOFTWARE of sysexits.h


class LmAdapter:
    def __init__(self, folder: Path, labels: dict[str, str]) -> None:
        self._responses: dict[str, LmResponses] = {}  # of requests under way on their own streams
        self._sessions = Sessions(lambda request_id: self._engine.abort(request_id))
        self._engine = load_engine(folder, end_process, self._sessions.flush)
        self._metrics = EngineMetrics(labels, self._engine.fallback)
        self._numbers = itertools.count()
        self._asking_due = self._metrics_due = self._sessions_due = 0.0  # on the monotonic clock, seconds
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._run_watch, name="lmaas-watch", daemon=True)
        self._watch.start()

    def execute(self, requests: list[Any]) -> None:
        """Hand the requests to the engine and return; each is answered through a response sender."""
        for request in requests:
            request_id = str(next(self._numbers))
            sender = request.get_response_sender()
            try:
                name = read_session(request)
                if name is None:
                    self._submit(request, request_id, sender)
                elif commands := read_commands(request):
                    self._carry_out(commands, self._sessions.find(name))
                    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                else:
                    self._sessions.open(name, sender)
            except RequestFault as error:
                _send_fault(sender, error.fault)
            except Exception:
                logger.exception("request %s could not be read", request_id)
                _send_fault(sender, UNREADABLE)

    def finalize(self) -> None:
        """Let what is under way finish within a bound, then fail the rest: all get an outcome."""
        seconds = float(os.environ.get(DRAIN_VARIABLE, DRAIN_SECONDS))
        if not self._engine.drain(seconds):
            logger.warning("not all requests finished within %.0f s", seconds)
        self._engine.close()
        self._closing.set()
        self._watch.join()
        self._sessions.close()

    def _submit(self, request: Any, request_id: str, sender: Any) -> None:
        """Have it answered on its own stream."""
        parsed, requested = read_lm(request, request_id, self._engine.manifest.sampling)
        builder = ResponseBuilder(requested, parsed)
        responses = LmResponses(sender, builder, lambda: self._responses.pop(request_id, None))
        self._responses[request_id] = responses
        try:
            self._engine.submit(parsed, responses)
        except Exception:
            del self._responses[request_id]
            raise

    def _carry_out(self, commands: list[tuple[int, Command]], session: Session) -> None:
        """Raises RequestFault, and carries out none of the commands, where a key is in use."""
        session.require_unused([key for key, command in commands if command is not None])
        for key, command in commands:
            if command is not None:
                self._submit_in_session(command, key, session)
            elif (under_way := session.request_id(key)) is not None:
                self._engine.abort(under_way)
        session.flush()  # the faults

    def _submit_in_session(self, command: Submit, key: int, session: Session) -> None:
        request_id = str(next(self._numbers))
        sink = session.register(key, request_id)
        defaults = self._engine.manifest.sampling
        try:
            self._engine.submit(request_of(command, request_id, defaults), sink)
        except RequestFault as error:
            sink.fail(error.fault)
        except Exception:
            named = {"request_id": command.log_id}
            logger.exception("request %s could not be read", request_id, extra=named)
            sink.fail(UNREADABLE)
        if session.over:  # it may have ended before the engine knew the request
            self._engine.abort(request_id)

    def _run_watch(self) -> None:
        while not self._closing.wait(CANCEL_POLL_SECONDS):
            self._look_around()

    def _look_around(self) -> None:
        try:
            if time.monotonic() >= self._asking_due:
                asked = list(self._responses.items())
                self._asking_due = time.monotonic() + len(asked) / ASKED_PER_SECOND
                for request_id, responses in asked:
                    self._abort_if_cancelled(request_id, responses)
            if time.monotonic() >= self._sessions_due:
                self._sessions_due = time.monotonic() + SESSION_POLL_SECONDS
                self._sessions.end_cancelled()
            if time.monotonic() >= self._metrics_due:
                self._metrics_due = time.monotonic() + METRICS_SECONDS
                self._metrics.report(self._engine.stats())
        except Exception:  # Triton refuses for a moment: that must not end the watch for good
            logger.exception("the watch over cancelled requests and metrics failed, and goes on")

    def _abort_if_cancelled(self, request_id: str, responses: LmResponses) -> None:
        try:
            if responses.is_cancelled():
                self._engine.abort(request_id)
        except Exception:  # one request must not keep the others from being asked
            logger.exception("request %s could not be asked whether it was cancelled", request_id)


def end_process() -> None:
    """A step hangs, and with it the model. The supervisor of this process starts a new one."""
    logger.critical("this process ends with status %d", STALLED_STATUS)
    time.sleep(LOG_SECONDS)
    os._exit(STALLED_STATUS)


class LmResponses:
    """The sink of one request that is answered on its own stream.

    Triton releases the request with its last response, so the sender must not be used after that.
    """

    def __init__(self, sender: Any, builder: ResponseBuilder, on_over: Callable[[], object]) -> None:
        """`on_over` is called before the last response is sent."""
        self._sender = sender
        self._builder = builder
        self._on_over = on_over
        self._lock = threading.Lock()
        self._over = False

    def send(self, answer: Answer, *, final: bool) -> None:
        response = self._builder.build(answer)
        if final:
            self._send_last(response)
        else:
            self._sender.send(response)

    def fail(self, fault: Fault) -> None:
        self._send_last(error_response(fault))

    def is_cancelled(self) -> bool:
        with self._lock:
            return not self._over and bool(self._sender.is_cancelled())

    def _send_last(self, response: Any) -> None:
        with self._lock:
            self._over = True
            self._on_over()
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _send_fault(sender: Any, fault: Fault) -> None:
    sender.send(error_response(fault), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
