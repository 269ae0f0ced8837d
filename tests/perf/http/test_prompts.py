"""Texts by a seed: distinct, and as long as was asked."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from perf.errors import PlanError
from perf.http.prompts import Texts, load_tokenizer

MODEL = Path(__file__).resolve().parents[3] / "models" / "mini-lm"


def drawn(texts: Texts, seed: str, count: int = 200) -> list[str]:
    return list(islice(texts.draw(seed), count))


def test_a_seed_gives_the_same_texts_again() -> None:
    assert drawn(Texts(12), "a") == drawn(Texts(12), "a")
    assert not set(drawn(Texts(12), "a")) & set(drawn(Texts(12), "b"))


def test_so_many_words_and_none_twice() -> None:
    texts = drawn(Texts(5), "a", 2000)
    assert {len(text.split()) for text in texts} == {5}
    assert len(set(texts)) == len(texts)


def test_one_word_may_come_again() -> None:
    assert len(drawn(Texts(1), "a", 500)) == 500


@pytest.mark.parametrize("tokens", [1, 7, 32, 200])
def test_exactly_so_many_tokens(tokens: int) -> None:
    texts = drawn(Texts(0, tokens, str(MODEL)), "a", 20)
    tokenizer = load_tokenizer(str(MODEL / "tokenizer.json"))
    assert {len(tokenizer.encode(text).ids) for text in texts} == {tokens}


@pytest.mark.parametrize("tokenizer", [None, "/nowhere"])
def test_tokens_need_what_counts_them(tokenizer: str | None) -> None:
    with pytest.raises(PlanError, match="--tokenizer"):
        next(Texts(0, 8, tokenizer).draw("a"))
