"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def give_back() -> None:
    """glibc keeps what was freed in small pieces; other C libraries have no such call, and need none."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
