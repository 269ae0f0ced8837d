"""The thread between the engine and the sinks: it turns events into answers, so that text holds up no step.

Whatever events are ready when it looks are taken together: tokens that came while a sink was busy share an
answer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

from runtime.contract import Fault, FaultCode
from runtime.live import Event, FaultEvent, LiveRequest

Item = TypeVar("Item")
logger = logging.getLogger(__name__)


class Delivery:
    def __init__(
        self, answered: Callable[[LiveRequest], None], abort: Callable[[LiveRequest, Fault], None]
    ) -> None:
        """`answered` hears of each request after its last answer, `abort` of one that cannot be answered."""
        self._answered = answered
        self._abort = abort
        self._queue: SimpleQueue[list[Event] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="lmaas-delivery", daemon=True)
        self._thread.start()

    def put(self, events: list[Event]) -> None:
        self._queue.put(events)

    def close(self) -> None:
        """Deliver what was put, then end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_:
            ready = [self._queue.get()]
            try:
                while True:
                    ready.append(self._queue.get_nowait())
            except Empty:
                pass
            open_ = None not in ready
            self.deliver([event for events in ready if events is not None for event in events])

    def deliver(self, events: list[Event]) -> None:
        touched: dict[int, LiveRequest] = {}
        for event in events:
            if not event.live.answered:
                touched[id(event.live)] = event.live
                self._attempt(event.live, self._add, event)
        for live in touched.values():
            if not live.answered:
                self._attempt(live, self._send, live)

    def _add(self, event: Event) -> None:
        if isinstance(event, FaultEvent):
            self._fail(event.live, event.fault)
        else:
            event.live.assembly.add(event)

    def _send(self, live: LiveRequest) -> None:
        taken = live.assembly.take()
        if taken is None:
            return
        answer, final = taken
        live.sink.send(answer, final=final)  # where it raises, nothing was sent: the request fails instead
        if final:
            live.answered = True
            self._answered(live)

    def _fail(self, live: LiveRequest, fault: Fault) -> None:
        live.answered = True
        try:
            live.sink.fail(fault)
        finally:
            self._answered(live)

    def _attempt(self, live: LiveRequest, action: Callable[[Item], None], item: Item) -> None:
        """A defect in the answer of one request, or in its sink, must not end the answers of the others."""
        try:
            action(item)
        except Exception:
            logger.exception("request %s could not be answered", live.request.request_id)
            if not live.answered:
                fault = Fault(FaultCode.INTERNAL, "the answer could not be sent; the server's log says why")
                self._abort(live, fault)
                self._attempt(live, lambda _: self._fail(live, fault), live)
