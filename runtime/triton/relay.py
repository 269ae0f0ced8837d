"""Pieces of many answers in one response, as `RelayParameters` describes it.

A response costs every process on its way about the same, whether it holds one piece or thirty.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import triton_python_backend_utils as pb_utils

from runtime.answers import Answer
from runtime.contract import RelayParameters
from runtime.errors import RequestFault
from runtime.triton.outputs import as_json, details_tensor

logger = logging.getLogger(__name__)


class Relay:
    """Filled and flushed by the engine's delivery thread; another asks whether it was cancelled."""

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._pieces: list[str] = []
        self._lock = threading.Lock()  # Triton forgets the sender after its last response
        self.over = False

    def open(self) -> None:
        """Tell the client that requests may name it."""
        self._send([])

    def put(self, key: int, details: dict[str, Any]) -> None:
        self._pieces.append(f"[{key},{as_json(details)}]")

    def flush(self) -> None:
        """Send what was put since."""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            self._send(pieces)

    def end_if_cancelled(self) -> None:
        with self._lock:
            if not self.over and self._sender.is_cancelled():
                self._end()

    def end(self) -> None:
        with self._lock:
            if not self.over:
                self._end()

    def _end(self) -> None:
        self.over = True
        self._sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _send(self, pieces: list[str]) -> None:
        content = details_tensor(f"[{','.join(pieces)}]")
        with self._lock:
            if not self.over:
                self._sender.send(pb_utils.InferenceResponse(output_tensors=[content]))


@dataclass(slots=True)
class PlaceInRelay:
    """Where the answers of one request go until its last, as long as the relay is open."""

    relay: Relay
    key: int
    taken: int = 0  # answers

    def take(self, answer: Answer) -> bool:
        if self.relay.over:
            return False
        self.relay.put(self.key, answer.details())
        self.taken += 1
        return True


class Relays:
    """Those that clients have open.

    Triton's thread opens and finds them, the delivery thread flushes them, and the watch asks after them.
    """

    def __init__(self) -> None:
        self._relays: dict[str, Relay] = {}
        self._changing = threading.Lock()

    def open(self, name: str, sender: Any) -> None:
        """Raises RequestFault where there is one of that name."""
        known = self._relays.get(name)
        if known is not None and not known.over:
            raise RequestFault.invalid(RelayParameters.RELAY, f"{name} is open already")
        relay = Relay(sender)
        relay.open()
        with self._changing:
            self._relays[name] = relay

    def place(self, name: str, key: int) -> PlaceInRelay | None:
        """None where no relay has that name."""
        relay = self._relays.get(name)
        return None if relay is None else PlaceInRelay(relay, key)

    def flush(self) -> None:
        for name, relay in list(self._relays.items()):
            if not _went_well(relay.flush, name):  # its client learns from the end that pieces are missing
                _went_well(relay.end, name)
                self._forget(name, relay)

    def end_cancelled(self) -> None:
        for name, relay in list(self._relays.items()):
            _went_well(relay.end_if_cancelled, name)
            if relay.over:
                self._forget(name, relay)

    def close(self) -> None:
        for name, relay in list(self._relays.items()):
            _went_well(relay.end, name)

    def _forget(self, name: str, relay: Relay) -> None:
        with self._changing:
            if self._relays.get(name) is relay:  # not another that took its name
                del self._relays[name]


def _went_well(action: Callable[[], None], name: str) -> bool:
    """One relay must not keep anybody from the others."""
    try:
        action()
    except Exception:
        logger.exception("relay %s could not be served", name)
        return False
    return True
