"""A thread that notices a step which does not return: native code that hangs can be told of, not stopped."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable

LOOKS_PER_LIMIT = 10


class Watchdog:
    def __init__(
        self, limit_seconds: float, began: Callable[[], float | None], stalled: Callable[[], None]
    ) -> None:
        """`began` says when the step under way did, on the monotonic clock. `stalled` is called once."""
        self._limit = limit_seconds
        self._began = began
        self._stalled = stalled
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lmaas-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """May be called from `stalled`."""
        self._closing.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        suspect: float | None = None
        while not self._closing.wait(self._limit / LOOKS_PER_LIMIT):
            began = self._began()
            if began is None or time.monotonic() - began <= self._limit:
                suspect = None
            elif began != suspect:  # the whole process may have been stopped: the step gets a second look
                suspect = began
            else:
                self._stalled()
                return


def stack_of(thread: threading.Thread) -> str:
    """Where the thread is now, for the log."""
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)) if frame else ""
