"""The bound of the queue: a request takes a place at the door and leaves it when it starts or is dropped."""

from __future__ import annotations

import threading

from runtime.contract import FaultCode
from runtime.errors import RequestFault
from runtime.live import LiveRequest


class QueuePlaces:
    """Counts waiting requests and their prompt tokens. Thread-safe."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._num_tokens = 0
        self._lock = threading.Lock()
        self.num_taken = 0

    def take(self, live: LiveRequest) -> None:
        """Raises RequestFault: `queue_full`, or `invalid_argument` where the request alone is too much."""
        tokens = live.num_tokens
        if tokens > self._max_tokens:
            raise RequestFault.invalid(
                "text_input", f"{tokens} tokens in all its sequences, but at most {self._max_tokens} may wait"
            )
        with self._lock:
            if self.num_taken >= self._max_requests:
                raise RequestFault.of(FaultCode.QUEUE_FULL, f"{self.num_taken} requests are waiting already")
            if self._num_tokens + tokens > self._max_tokens:
                raise RequestFault.of(
                    FaultCode.QUEUE_FULL,
                    f"{self._num_tokens} prompt tokens are waiting already, of at most {self._max_tokens}",
                )
            self.num_taken += 1
            self._num_tokens += tokens

    def leave(self, live: LiveRequest) -> None:
        with self._lock:
            self.num_taken -= 1
            self._num_tokens -= live.num_tokens
