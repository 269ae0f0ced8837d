"""The thread between the engine and the sinks: it turns events into answers, so that text holds up no step.

Whatever events are ready when it looks are taken together: tokens that came while a sink was busy share an
answer. Where many requests stream, one that was sent something waits a little for more: an answer costs every
process on its way to the client, and a server that sends for all its time computes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

from runtime.contract import Fault, FaultCode
from runtime.live import Event, FaultEvent, LiveRequest, TokenEvent

Item = TypeVar("Item")

# From so many streams on, all together get about so many answers a second, yet none waits longer for its next
# than so many seconds; a first or last one never waits.
FREELY_SENT = 4
SENT_PER_SECOND = 250
LONGEST_PAUSE = 0.25
logger = logging.getLogger(__name__)


class Delivery:
    def __init__(
        self,
        answered: Callable[[LiveRequest], None],
        abort: Callable[[LiveRequest, Fault], None],
        delivered: Callable[[], None] = lambda: None,
    ) -> None:
        """`answered` hears of each request after its last answer, `abort` of one that cannot be answered.

        `delivered` is called after answers that were sent together.
        """
        self._answered = answered
        self._abort = abort
        self._delivered = delivered
        self._queue: SimpleQueue[list[Event] | None] = SimpleQueue()
        self._streams: set[int] = set()  # ids of requests that were sent something
        self._turn = 0.0  # when they may be sent more, all together; monotonic seconds
        self._held: dict[int, LiveRequest] = {}  # those of them that have something to send
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
            ready: list[list[Event] | None] = []
            try:
                ready.append(self._queue.get(timeout=self._patience()))
                while True:
                    ready.append(self._queue.get_nowait())
            except Empty:
                pass
            open_ = None not in ready
            self.deliver([event for events in ready if events is not None for event in events])
        held, self._held = self._held, {}
        self._send_all(held)

    def _patience(self) -> float | None:
        """Seconds until something that is held may be sent."""
        if not self._held:
            return None
        return max(0.0, self._turn - time.monotonic())

    def deliver(self, events: list[Event]) -> None:
        touched, urgent = self._held, set()
        self._held = {}
        for event in events:
            if not event.live.answered:
                touched[id(event.live)] = event.live
                self._attempt(event.live, self._add, event)
                ends = not isinstance(event, TokenEvent) or event.reason is not None
                if ends or event.live.assembly.complete:
                    urgent.add(id(event.live))
        if time.monotonic() < self._turn:
            waiting = touched.keys() & self._streams - urgent
            self._held = {key: live for key, live in touched.items() if key in waiting}
        self._send_all({key: live for key, live in touched.items() if key not in self._held})

    def _send_all(self, requests: dict[int, LiveRequest]) -> None:
        for live in requests.values():
            if not live.answered:
                self._attempt(live, self._send, live)
        try:
            self._delivered()
        except Exception:
            logger.exception("what was delivered could not be sent on")
        now = time.monotonic()
        if self._turn <= now:
            pause = max(0, len(self._streams) - FREELY_SENT) / SENT_PER_SECOND
            self._turn = now + min(pause, LONGEST_PAUSE)

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
            self._end(live)
        else:
            self._streams.add(id(live))

    def _fail(self, live: LiveRequest, fault: Fault) -> None:
        live.answered = True
        try:
            live.sink.fail(fault)
        finally:
            self._end(live)

    def _end(self, live: LiveRequest) -> None:
        live.answered = True
        self._streams.discard(id(live))
        self._held.pop(id(live), None)
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
