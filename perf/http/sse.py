"""Server-sent events out of the pieces of a body, each with the time at which it was whole.

WHATWG HTML, section 9.2 "Server-sent events", gives the format; lines may end in LF or CRLF.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Event(NamedTuple):
    time: float
    name: str
    data: bytes


def events(pieces: Iterable[tuple[float, bytes]]) -> Iterator[Event]:
    """Comments and what the body ends with unfinished are left out."""
    rest = b""
    name, data = "message", list[bytes]()
    for time, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            label, _, value = line.removesuffix(b"\r").partition(b":")
            value = value.removeprefix(b" ")
            if label == b"data":
                data.append(value)
            elif label == b"event":
                name = value.decode(errors="replace")
            elif not label and not value:
                if data:
                    yield Event(time, name, b"\n".join(data))
                name, data = "message", []
