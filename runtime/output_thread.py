"""The output thread: turns events into answers and calls the sinks, so that text never delays a step.

It processes all events that are ready together: tokens that came while a sink was busy share an answer.
`StreamPacing` (runtime/pacing.py) decides when a stream gets its next answer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

from runtime.contract import Fault, FaultCode
from runtime.pacing import StreamPacing
from runtime.request_state import Event, FaultEvent, RequestState, TokenEvent

Item = TypeVar("Item")
logger = logging.getLogger(__name__)


class OutputThread:
    def __init__(
        self,
        answered: Callable[[RequestState], None],
        abort: Callable[[RequestState, Fault], None],
        delivered: Callable[[], None] = lambda: None,
    ) -> None:
        """`answered` is called after the last answer of a request, `abort` if a request cannot be answered.

        `delivered` is called after answers that were sent together.
        """
        self._answered = answered
        self._abort = abort
        self._delivered = delivered
        self._queue: SimpleQueue[list[Event] | None] = SimpleQueue()
        self._pacing = StreamPacing()
        self._unsent: dict[int, RequestState] = {}  # requests with events since their last answer, by id
        self._thread = threading.Thread(target=self._run, name="lmaas-output", daemon=True)
        self._thread.start()

    def put(self, events: list[Event]) -> None:
        self._queue.put(events)

    def close(self) -> None:
        """Answer what was put, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            ready: list[list[Event] | None] = []
            try:
                ready.append(self._queue.get(timeout=self._pacing.seconds_to_turn if self._unsent else None))
                while True:
                    ready.append(self._queue.get_nowait())
            except Empty:
                pass
            is_open = None not in ready
            self.process([event for events in ready if events is not None for event in events])
        self._send_all(list(self._unsent.values()))

    def process(self, events: list[Event]) -> None:
        """Add the events to their requests, and send what is due, first and last answers before others."""
        ending: set[int] = set()
        for event in events:
            state = event.state
            if state.answered:
                continue
            self._unsent[id(state)] = state
            if isinstance(event, FaultEvent):
                self._attempt(state, partial(self._fail, fault=event.fault), state)
            else:
                self._attempt(state, state.output.add, event)
            if _ends_sequence(event) or state.output.complete:
                ending.add(id(state))
        is_turn = self._pacing.is_turn
        self._send_all([state for key, state in self._unsent.items() if not state.streaming or key in ending])
        if is_turn:
            self._send_all(list(self._unsent.values()))
            self._pacing.end_turn()

    def _send_all(self, states: list[RequestState]) -> None:
        for state in states:
            self._unsent.pop(id(state), None)
            if not state.answered:
                self._attempt(state, self._send, state)
        try:
            self._delivered()
        except Exception:
            logger.exception("answers that were delivered could not be sent on")

    def _send(self, state: RequestState) -> None:
        ready = state.output.next_answer()
        if ready is None:
            return
        answer, final = ready
        # If this raises, nothing was sent: the request fails instead.
        state.sink.send(answer, final=final)
        if final:
            self._log_end(state)
            self._end(state)
        elif not state.streaming:
            state.streaming = True
            self._pacing.num_streams += 1

    def _fail(self, state: RequestState, fault: Fault) -> None:
        state.answered = True
        try:
            state.sink.fail(fault)
        finally:
            self._log_end(state, fault)
            self._end(state)

    def _end(self, state: RequestState) -> None:
        state.answered = True
        self._pacing.num_streams -= state.streaming
        state.streaming = False
        self._unsent.pop(id(state), None)
        self._answered(state)

    def _log_end(self, state: RequestState, fault: Fault | None = None) -> None:
        """One line for a request. No text of a caller is in it: a fault's message can quote one."""
        if not logger.isEnabledFor(logging.DEBUG):
            return
        fields = {
            "operation": state.request.operation.value,
            "outcome": "done" if fault is None else fault.code.value,
            "prompt_tokens": len(state.prompt),
            "completion_tokens": sum(each.num_generated for each in state.sequences if each.generates),
            **state.timings.to_json(),
        }
        logger.debug("a request ended: %s", fields, extra={**_named(state), "fields": fields})

    def _attempt(self, state: RequestState, action: Callable[[Item], None], item: Item) -> None:
        """A defect in the answer of one request, or in its sink, must not end the answers of the others."""
        try:
            action(item)
        except Exception:
            logger.exception(
                "request %s could not be answered", state.request.request_id, extra=_named(state)
            )
            if not state.answered:
                fault = Fault(FaultCode.INTERNAL, "the answer could not be sent; the server's log says why")
                self._abort(state, fault)
                self._attempt(state, lambda _: self._fail(state, fault), state)


def _named(state: RequestState) -> dict[str, str]:
    """For the log line of a request."""
    return {"request_id": state.request.log_id}


def _ends_sequence(event: Event) -> bool:
    return not isinstance(event, TokenEvent) or event.reason is not None
