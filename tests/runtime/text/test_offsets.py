"""Offsets against an oracle that decodes the text from its beginning at every token."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.text import TextOffsets, Tokenizer


def single(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """A token for each byte."""
    ids = {tokenizer.token_bytes(token_id): token_id for token_id in range(1, 320)}
    return [ids[bytes([byte])] for byte in data]


@settings(deadline=None, max_examples=500)
@given(
    data=st.lists(
        st.binary(min_size=1, max_size=4) | st.text("aÜ☃🌍", min_size=1).map(str.encode), max_size=8
    ).map(b"".join)
)
@example(data=b"\xed\xa0")  # of what would be a surrogate, Python's decoder waits for a third byte
@example(data=b"\xc3a\xf0\x9fb\xc3\xc3\x9c")
def test_every_byte_is_in_its_character(tokenizer: Tokenizer, data: bytes) -> None:
    offsets = TextOffsets(tokenizer)
    found = [offsets.next(token_id) for token_id in single(tokenizer, data)]
    expected = [len(data[: place + 1].decode("utf-8", "replace")) - 1 for place in range(len(data))]
    assert found == expected


@settings(deadline=None)
@given(text=st.text("ab Ünï☃️🌍你好"))
def test_tokens_of_any_length(tokenizer: Tokenizer, text: str) -> None:
    offsets, data = TextOffsets(tokenizer, 7), b""
    for token_id in tokenizer.encode(text):
        assert offsets.next(token_id) == 7 + len(data.decode("utf-8", "ignore"))
        data += tokenizer.token_bytes(token_id)


@pytest.mark.parametrize("between", [0, 10_000])
def test_a_token_without_text_is_nowhere(tokenizer: Tokenizer, between: int) -> None:
    offsets = TextOffsets(tokenizer)
    first, second = single(tokenizer, b"ab")
    assert [offsets.next(token) for token in (between, first, between, second)] == [0, 0, 1, 1]
