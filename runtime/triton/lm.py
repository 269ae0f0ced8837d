"""Kind `lm`: requests go to the engine at once, its delivery thread sends the responses.

A client that leaves is noticed by asking: one thread asks for every request under way, those that have
produced nothing yet among them.
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

from runtime.answers import Answer
from runtime.contract import Fault, FaultCode
from runtime.engine import Engine
from runtime.errors import RequestFault
from runtime.triton.faults import error_response
from runtime.triton.inputs import read_lm, read_relay
from runtime.triton.metrics import EngineMetrics
from runtime.triton.outputs import ResponseBuilder
from runtime.triton.relay import PlaceInRelay, Relays

logger = logging.getLogger(__name__)

CANCEL_POLL_SECONDS = 0.05
ASKED_PER_SECOND = 100  # most requests that are asked whether they were cancelled: that crosses processes
RELAY_POLL_SECONDS = 0.25
METRICS_SECONDS = 1.0
DRAIN_SECONDS = 10.0
LOG_SECONDS = 0.5  # for the last lines to reach Triton's log
STALLED_STATUS = 70  # of the process, as EX_SOFTWARE of sysexits.h


class LmAdapter:
    def __init__(self, folder: Path, labels: dict[str, str]) -> None:
        self._responses: dict[str, LmResponses] = {}  # of requests under way
        self._relays = Relays()
        self._engine = Engine.load(folder, end_process, self._relays.flush)
        self._metrics = EngineMetrics(labels)
        self._numbers = itertools.count()
        self._asking_due = self._metrics_due = self._relays_due = 0.0  # on the monotonic clock, seconds
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._run_watch, name="lmaas-watch", daemon=True)
        self._watch.start()

    def execute(self, requests: list[Any]) -> None:
        """Hand the requests to the engine and return; each is answered through its response sender."""
        for request in requests:
            request_id = str(next(self._numbers))
            sender = request.get_response_sender()
            try:
                self._submit(request, request_id, sender)
            except RequestFault as error:
                _send_fault(sender, error.fault)
            except Exception:
                logger.exception("request %s could not be read", request_id)
                _send_fault(sender, Fault(FaultCode.INTERNAL, "the request could not be read"))

    def finalize(self) -> None:
        """Let what is under way finish within a bound, then fail the rest: all get an outcome."""
        if not self._engine.drain(DRAIN_SECONDS):
            logger.warning("not all requests finished within %.0f s", DRAIN_SECONDS)
        self._engine.close()
        self._closing.set()
        self._watch.join()
        self._relays.close()

    def _submit(self, request: Any, request_id: str, sender: Any) -> None:
        wish = read_relay(request)
        if wish is not None and wish.key is None:
            self._relays.open(wish.name, sender)
            return
        parsed, wishes = read_lm(request, request_id)
        builder = ResponseBuilder(wishes, parsed)
        place = None
        if wish is not None and wish.key is not None and builder.only_details:
            place = self._relays.place(wish.name, wish.key)
        responses = LmResponses(sender, builder, lambda: self._responses.pop(request_id, None), place)
        self._responses[request_id] = responses
        try:
            self._engine.submit(parsed, responses)
        except Exception:
            del self._responses[request_id]
            raise

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
            if time.monotonic() >= self._relays_due:
                self._relays_due = time.monotonic() + RELAY_POLL_SECONDS
                self._relays.end_cancelled()
            if time.monotonic() >= self._metrics_due:
                self._metrics_due = time.monotonic() + METRICS_SECONDS
                self._metrics.report(self._engine.stats())
        except Exception:  # Triton refuses for a moment: that must not end the watch for good
            logger.exception("cancelled requests or metrics could not be looked after")

    def _abort_if_cancelled(self, request_id: str, responses: LmResponses) -> None:
        try:
            if responses.is_cancelled():
                self._engine.abort(request_id)
        except Exception:  # nor must one request keep the watch from the others
            logger.exception("request %s could not be asked whether it was cancelled", request_id)


def end_process() -> None:
    """A step hangs, and with it the model. Whoever watches this process brings a new one up."""
    logger.critical("this process ends with status %d", STALLED_STATUS)
    time.sleep(LOG_SECONDS)
    os._exit(STALLED_STATUS)


class LmResponses:
    """The sink of one request. Triton forgets the request after its last response: the sender rests then."""

    def __init__(
        self,
        sender: Any,
        builder: ResponseBuilder,
        over: Callable[[], object],
        place: PlaceInRelay | None = None,
    ) -> None:
        self._sender = sender
        self._builder = builder
        self._told_over = over
        self._place = place
        self._lock = threading.Lock()
        self._over = False

    def send(self, answer: Answer, *, final: bool) -> None:
        if final:
            self._send_last(self._builder.build(answer, self._place.taken if self._place else 0))
        elif self._place is None or not self._place.take(answer):
            self._sender.send(self._builder.build(answer))

    def fail(self, fault: Fault) -> None:
        self._send_last(error_response(fault))

    def is_cancelled(self) -> bool:
        with self._lock:
            return not self._over and bool(self._sender.is_cancelled())

    def _send_last(self, response: Any) -> None:
        with self._lock:
            self._over = True
            self._told_over()
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _send_fault(sender: Any, fault: Fault) -> None:
    sender.send(error_response(fault), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
