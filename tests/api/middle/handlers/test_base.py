"""How a list is cut into requests to a head."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from api.middle.handlers.base import head_chunks
from runtime.contract import MAX_HEAD_BATCH, MAX_HEAD_CHARACTERS


@given(st.lists(st.integers(0, 2 * MAX_HEAD_CHARACTERS) | st.integers(0, 300), max_size=300))
def test_chunks_hold_every_text_in_order_within_both_limits(sizes: list[int]) -> None:
    chunks = head_chunks(sizes)
    assert [size for rows in chunks for size in sizes[rows]] == sizes
    for rows in chunks:
        count, characters = rows.stop - rows.start, sum(sizes[rows])
        assert 1 <= count <= MAX_HEAD_BATCH
        assert characters <= MAX_HEAD_CHARACTERS or count == 1


def test_no_chunk_is_smaller_than_it_must_be() -> None:
    assert head_chunks([10] * (MAX_HEAD_BATCH + 1)) == [
        slice(0, MAX_HEAD_BATCH),
        slice(MAX_HEAD_BATCH, MAX_HEAD_BATCH + 1),
    ]
    half = MAX_HEAD_CHARACTERS // 2
    assert head_chunks([half, half, 1]) == [slice(0, 2), slice(2, 3)]
    assert head_chunks([1, 3 * half, 1]) == [slice(0, 1), slice(1, 2), slice(2, 3)]
