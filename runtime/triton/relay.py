"""Pieces of many answers in one response, as `RelayParameters` describes it.

A response costs every process on its way about the same, whether it holds one piece or thirty.
"""

from __future__ import annotations

import threading
from typing import Any

import triton_python_backend_utils as pb_utils

from runtime.triton.outputs import as_json, details_tensor


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
