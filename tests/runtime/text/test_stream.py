"""The stream against an oracle that decodes and searches the whole text at every token."""

import time
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.text import TextStream, Tokenizer

# Few characters, so that random stop strings meet random text; of one, two, three and four bytes.
characters = st.sampled_from("ab \né☃🌍\ufffd")
stop_strings = st.lists(st.text(characters, min_size=1, max_size=5), max_size=4).map(tuple)
texts = st.text(characters, max_size=30)
any_ids = st.lists(st.integers(0, 321), max_size=40)


def first_stop(text: str, stop: tuple[str, ...]) -> int | None:
    return min((text.index(string) for string in stop if string in text), default=None)


def held_from(text: str, stop: tuple[str, ...]) -> int:
    """Where the longest end of `text` begins that may still grow into a stop string."""
    for begin in range(len(text)):
        if any(len(string) > len(text) - begin and string.startswith(text[begin:]) for string in stop):
            return begin
    return len(text)


def check_stream(tokenizer: Tokenizer, ids: Sequence[int], stop: tuple[str, ...]) -> None:
    stream = TextStream(tokenizer, stop)
    sent, data = "", b""
    for token_id in ids:
        sent += stream.push(token_id)
        data += tokenizer.token_bytes(token_id)
        known = certain_text(data)
        begin, held = first_stop(known, stop), held_from(known, stop)
        decided = begin is not None and begin <= held
        assert stream.stopped == decided
        assert sent == known[: begin if decided else held]
        if stream.stopped:
            break
    sent += stream.finish()
    whole = data.decode("utf-8", "replace")
    begin = first_stop(whole, stop)
    assert sent == whole[:begin]
    assert stream.stopped == (begin is not None)
    assert stream.push(5) == "" or begin is None
    assert stream.finish() == "" or begin is None


def certain_text(data: bytes) -> str:
    """The decoded text without a character that is still incomplete at the end.

    Of what would be a surrogate (ED A0 to ED BF, and one more) the decoder waits for the third byte.
    """
    if data[-2:-1] == b"\xed" and 0xA0 <= data[-1] <= 0xBF:
        return data[:-2].decode("utf-8", "replace")
    for cut in range(min(4, len(data) + 1)):
        rest = data[len(data) - cut :]
        if cut and any((rest + tail).decode("utf-8", "ignore") for tail in completions(rest)):
            return data[: len(data) - cut].decode("utf-8", "replace")
    return data.decode("utf-8", "replace")


def completions(rest: bytes) -> list[bytes]:
    """Endings that would make one character of `rest` where it is the beginning of one."""
    needed = {0b110: 2, 0b1110: 3, 0b11110: 4}
    length = next((n for head, n in needed.items() if rest[0] >> (7 - n) == head), 0)
    if length <= len(rest):
        return []
    whole = [rest + bytes([a]) + b"\x80" * (length - len(rest) - 1) for a in (0x80, 0x90, 0xA0, 0xBF)]
    return [text[len(rest) :] for text in whole if is_one_character(text)]


def is_one_character(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False


@settings(deadline=None, max_examples=400)
@given(ids=any_ids, stop=stop_strings)
@example(ids=[], stop=())
@example(ids=[170, 95], stop=("\ufffd",))  # ED A0
def test_any_tokens(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...]) -> None:
    check_stream(tokenizer, ids, stop)


@settings(deadline=None, max_examples=600)
@given(text=texts, stop=stop_strings, lone=st.booleans())
@example(text="abcd", stop=("abcd", "bc"), lone=True)
@example(text="abca", stop=("abcd", "bc"), lone=True)
@example(text="aab", stop=("aab", "ab", "b"), lone=False)
@example(text="a☃🌍b", stop=("☃🌍",), lone=True)
def test_any_text(tokenizer: Tokenizer, text: str, stop: tuple[str, ...], lone: bool) -> None:
    """Text as the tokenizer cuts it, and byte by byte."""
    single = {tokenizer.token_bytes(token_id): token_id for token_id in range(1, 320)}
    ids = [single[bytes([byte])] for byte in text.encode()] if lone else tokenizer.encode(text)
    check_stream(tokenizer, ids, stop)


def pieces(tokenizer: Tokenizer, text: str, *stop: str) -> list[str]:
    stream = TextStream(tokenizer, stop)
    single = {tokenizer.token_bytes(token_id): token_id for token_id in range(1, 320)}
    return [*(stream.push(single[bytes([byte])]) for byte in text.encode()), stream.finish()]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("ab", (), ["a", "b", ""]),
        ("☃!", (), ["", "", "☃", "!", ""]),
        ("xEND", ("END",), ["x", "", "", "", ""]),
        ("xENx", ("END",), ["x", "", "", "ENx", ""]),
        ("xEN", ("END",), ["x", "", "", "EN"]),
        ("aaab", ("aab",), ["", "", "a", "", ""]),
        ("abcx", ("abcd", "bc"), ["", "", "", "a", ""]),
        ("abc", ("abcd", "bc"), ["", "", "", "a"]),
        ("abcd", ("abcd", "bc"), ["", "", "", "", ""]),
        ("\n\n", ("\n\n", "\n"), ["", "", ""]),
    ],
)
def test_pieces(tokenizer: Tokenizer, text: str, stop: tuple[str, ...], expected: list[str]) -> None:
    assert pieces(tokenizer, text, *stop) == expected


def test_an_unfinished_character_becomes_a_replacement(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    single = {tokenizer.token_bytes(token_id): token_id for token_id in range(1, 320)}
    assert [stream.push(single[bytes([byte])]) for byte in "🌍".encode()[:3]] == ["", "", ""]
    assert stream.finish() == "\ufffd"
    assert not stream.stopped


def test_sequences_with_the_same_stop_strings_do_not_touch_each_other(tokenizer: Tokenizer) -> None:
    first, second = TextStream(tokenizer, ("ab",)), TextStream(tokenizer, ("ab",))
    [a], [b] = tokenizer.encode("a"), tokenizer.encode("b")
    assert (first.push(a), second.push(b), first.push(b)) == ("", "b", "")
    assert (first.stopped, second.stopped) == (True, False)


def test_long_text_takes_linear_time(tokenizer: Tokenizer) -> None:
    """The worst case of a naive search: 256 characters that nearly match at every position."""
    stop = ("a" * 255 + "b", "a" * 100 + "c")
    [a] = tokenizer.encode("a")

    def seconds(count: int) -> float:
        stream = TextStream(tokenizer, stop)
        started = time.process_time()
        for _ in range(count):
            stream.push(a)
        return time.process_time() - started

    seconds(1000)
    assert seconds(20_000) < 4 * seconds(10_000) + 0.05
