"""The processes that compute token masks: what a grammar allows, and what a hostile one cannot do."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.contract import FaultCode
from runtime.errors import RequestFault
from runtime.grammar import grammar_of
from runtime.manifest import Manifest
from runtime.masks import MaskServer, TokenMasks
from runtime.text import Tokenizer


class Asker:
    """One server over the tokenizer of the tiny model."""

    def __init__(self, artifact: Path) -> None:
        architecture = Manifest.load(artifact).architecture
        assert architecture.eos_token_id is not None
        self.end = architecture.eos_token_id
        self.tokenizer = Tokenizer(artifact / "tokenizer.json", self.end)
        self.vocab_size = architecture.vocab_size
        self.server = MaskServer(self.tokenizer.path, self.vocab_size, architecture.ends)

    def open(self, sequences: int = 1, **data: Any) -> TokenMasks:
        grammar = grammar_of(data)
        assert grammar is not None
        return self.server.open(grammar, sequences)

    def allowed(self, masks: TokenMasks, index: int = 0) -> set[int]:
        mask = masks.of(index)
        return {token for token in range(self.vocab_size) if mask[token // 8] >> token % 8 & 1}

    def spelled(self, masks: TokenMasks, text: str) -> None:
        for token in self.tokenizer.encode(text):
            assert token in self.allowed(masks), self.tokenizer.token_text(token)
            masks.advance(0, token)


@pytest.fixture(scope="module")
def asker(lm_artifact: Path) -> Iterator[Asker]:
    opened = Asker(lm_artifact)
    yield opened
    opened.server.close()


def test_only_what_the_grammar_allows_comes_next(asker: Asker) -> None:
    masks = asker.open(guided_choice=["the cat", "the dog"])
    allowed = asker.allowed(masks)
    texts = {asker.tokenizer.token_text(token) for token in allowed}
    assert texts
    assert all("the cat".startswith(text) or "the dog".startswith(text) for text in texts)
    asker.spelled(masks, "the dog")
    assert asker.allowed(masks) == {asker.end}
    masks.close()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"guided_regex": "(ab)+"}, "abab"),
        ({"guided_grammar": 'start: "(" start ")" | "a"'}, "((a))"),
        ({"guided_grammar": 'root ::= "(" root ")" | "a"'}, "((a))"),
        ({"response_format": {"type": "json_object"}}, '{"a": [1, null]}'),
        (
            {"guided_json": {"type": "object", "properties": {"é": {"enum": ["日"]}}, "required": ["é"]}},
            '{"é": "日"}',
        ),
    ],
)
def test_the_end_is_where_the_text_matches(asker: Asker, data: dict[str, Any], text: str) -> None:
    masks = asker.open(**data)
    assert asker.end not in asker.allowed(masks)
    asker.spelled(masks, text)
    assert asker.end in asker.allowed(masks)
    masks.close()


def test_sequences_of_a_request_go_their_own_ways(asker: Asker) -> None:
    masks = asker.open(2, guided_choice=["a", "b"])
    first, second = sorted(asker.allowed(masks, 0) & asker.allowed(masks, 1))[:2]
    masks.advance(1, second)
    masks.advance(0, first)
    assert asker.allowed(masks, 0) == asker.allowed(masks, 1) == {asker.end}
    masks.close()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"guided_regex": "(a"}, "unclosed group"),
        ({"guided_regex": "(?=a)b"}, "look-around"),
        ({"guided_regex": r"[^\s\S]"}, "no text matches"),
        ({"guided_grammar": "start: start"}, "no text matches"),
        ({"guided_json": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
        ({"guided_json": {"$ref": "file:///etc/passwd"}}, "does not fetch"),
    ],
)
def test_what_cannot_be_followed_is_named(asker: Asker, data: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestFault, match=said) as raised:
        asker.open(**data)
    assert (raised.value.fault.code, raised.value.fault.field) == (
        FaultCode.INVALID_ARGUMENT,
        next(iter(data)),
    )


def test_a_grammar_that_ends_its_process_ends_no_other(asker: Asker) -> None:
    other = asker.open(guided_choice=["a"])
    deep = "".join(f"r{number}:r{number + 1}\n" for number in range(2700))  # it overflows the stack
    with pytest.raises(RequestFault, match="too much time or memory"):
        asker.open(guided_grammar=f'start: r0\n{deep}r2700: "z"')
    asker.spelled(other, "a")
    assert asker.allowed(other) == {asker.end}
    other.close()


def test_a_grammar_may_become_too_complex_later(asker: Asker) -> None:
    many = " ".join(['("a" x)?'] * 30)
    masks = asker.open(guided_grammar=f"start: x\nx: {many}")
    (token,) = asker.tokenizer.encode("a")

    def go_on() -> None:
        for _ in range(100):
            asker.allowed(masks)
            masks.advance(0, token)

    with pytest.raises(RequestFault, match=r"guided_grammar\]: the grammar is too complex"):
        go_on()
    masks.close()


def test_a_server_that_ended_is_started_again(asker: Asker) -> None:
    asker.open(guided_choice=["a"]).close()
    process = asker.server._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    masks = asker.open(guided_choice=["a"])
    assert asker.allowed(masks)
    masks.close()
