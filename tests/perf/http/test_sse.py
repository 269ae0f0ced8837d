"""Events out of pieces that were cut anywhere."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from perf.http.sse import Event, events

STREAM = (
    b'data: {"a": 1}\n\n: ping\n\nevent: error\ndata: {"b": 2}\n\n'
    b"data:first\r\ndata: second\r\n\r\nid: 4\ndata: [DONE]\n\ndata: cut off"
)
FOUND = [
    ("message", b'{"a": 1}'),
    ("error", b'{"b": 2}'),
    ("message", b"first\nsecond"),
    ("message", b"[DONE]"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_wherever_they_are_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [(float(end), STREAM[begin:end]) for begin, end in pairwise(places)]
    found = list(events(pieces))
    assert [(event.name, event.data) for event in found] == FOUND


def test_an_event_came_when_its_end_came() -> None:
    pieces = [(1.0, b"data: a\n\ndata: b"), (2.0, b"\n"), (3.0, b"\ndata: c\n\ndata: d\n\n")]
    assert list(events(pieces)) == [
        Event(1.0, "message", b"a"),
        Event(3.0, "message", b"b"),
        Event(3.0, "message", b"c"),
        Event(3.0, "message", b"d"),
    ]
