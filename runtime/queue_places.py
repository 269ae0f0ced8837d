"""The bound of the queue: a request takes a place at the door, until none of its sequences waits any more."""

from __future__ import annotations

import threading

from runtime.contract import FaultCode
from runtime.errors import IntegrityError, RequestFault
from runtime.live import LiveRequest
from runtime.sequence import Sequence


class QueuePlaces:
    """Counts requests with waiting sequences, and the prompt tokens of these. Thread-safe."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self.num_taken = 0
        self.num_tokens = 0

    def take(self, live: LiveRequest) -> None:
        """Raises RequestFault: `queue_full`, or `invalid_argument` where the request alone is too much."""
        if not live.sequences:
            return
        tokens = live.num_tokens
        if tokens > self._max_tokens:
            raise RequestFault.invalid(
                "text_input", f"{tokens} tokens in all its sequences, but at most {self._max_tokens} may wait"
            )
        with self._lock:
            if self.num_taken >= self._max_requests:
                raise RequestFault.of(FaultCode.QUEUE_FULL, f"{self.num_taken} requests are waiting already")
            if self.num_tokens + tokens > self._max_tokens:
                raise RequestFault.of(
                    FaultCode.QUEUE_FULL,
                    f"{self.num_tokens} prompt tokens are waiting already, of at most {self._max_tokens}",
                )
            live.num_waiting = len(live.sequences)
            self.num_taken += 1
            self.num_tokens += tokens

    def leave(self, sequence: Sequence) -> None:
        """The sequence waits no more; told once of each."""
        with self._lock:
            self.num_tokens -= sequence.num_prompt
            sequence.live.num_waiting -= 1
            self.num_taken -= sequence.live.num_waiting == 0

    def check_empty(self) -> None:
        """Raise IntegrityError; called where nobody waits."""
        if self.num_taken or self.num_tokens:
            raise IntegrityError(
                f"nobody waits, and places are taken: {self.num_taken} for {self.num_tokens} tokens"
            )
