"""Words and spans in the caller's own text."""

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from runtime.heads.slots import TagRules, Word, merge_tags, split_words
from tests.runtime.heads.checkpoints import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    return train_tokenizer()


@pytest.fixture(scope="module")
def lowering() -> tokenizers.Tokenizer:
    tokenizer = train_tokenizer()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    return tokenizer


def pieces(tokenizer: tokenizers.Tokenizer, text: str) -> list[str]:
    words = split_words(text, tokenizer.encode(text, add_special_tokens=False))
    return [text[word.start : word.end] for word in words]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("play the song", ["play", "the", "song"]),
        ("  play   it ", ["play", "it"]),
        ("Boston, please!", ["Boston", ",", "please", "!"]),
        ("adele's song", ["adele", "'s", "song"]),
        ("caf\u00e9 \U0001f600\U0001f600 ok", ["caf\u00e9", "\U0001f600\U0001f600", "ok"]),
        ("\u4f60\u597d \u4e16\u754c", ["\u4f60\u597d", "\u4e16\u754c"]),
        ("a\tb\nc", ["a", "b", "c"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_words(tokenizer: tokenizers.Tokenizer, text: str, expected: list[str]) -> None:
    assert pieces(tokenizer, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PLAY Beyonc\u00c9", ["PLAY", "Beyonc\u00c9"]),
        ("\u0130stanbul NOW", ["\u0130stanbul", "NOW"]),
        ("Beyonce\u0301 \U0001f600 NOW", ["Beyonce\u0301", "\U0001f600", "NOW"]),
    ],
)
def test_words_of_the_text_before_normalization(
    lowering: tokenizers.Tokenizer, text: str, expected: list[str]
) -> None:
    assert pieces(lowering, text) == expected


@pytest.mark.parametrize("normalizer", [normalizers.Lowercase(), normalizers.NFC(), normalizers.NFKD()])
def test_a_character_belongs_to_one_word_under_any_normalizer(normalizer: Any) -> None:
    tokenizer = train_tokenizer()
    tokenizer.normalizer = normalizer
    assert pieces(tokenizer, "in \u0130STANBUL now")[0] == "in"
    for text in ("\u0130stanbul", "Beyonce\u0301", "\ufdfa \u01c4 \u2460x", "\u0939\u093f\u0928"):
        words = split_words(text, tokenizer.encode(text, add_special_tokens=False))
        assert all(one.end <= other.start for one, other in pairwise(words))
        assert "".join("".join(pieces(tokenizer, text)).split()) == "".join(text.split())


@settings(deadline=None)
@given(text=st.text(st.sampled_from("aB1 .,'\n\u00e9\u4f60\U0001f600\U0001f3fd\u200d")) | st.text())
def test_words_cover_all_that_is_not_blank(tokenizer: tokenizers.Tokenizer, text: str) -> None:
    words = split_words(text, tokenizer.encode(text, add_special_tokens=False))
    ends = [0, *(word.end for word in words)]
    assert all(end <= word.start < word.end for end, word in zip(ends, words, strict=False))
    assert "".join("".join(pieces(tokenizer, text)).split()) == "".join(text.split())
    assert [word.token for word in words] == sorted({word.token for word in words})


TEXT = "book  Sky High in new york"
WORDS = [Word(0, 0, 4), Word(1, 6, 9), Word(2, 10, 14), Word(3, 15, 17), Word(4, 18, 21), Word(5, 22, 26)]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O O O O O", []),
        ("O B-x I-x O B-y I-y", [("x", "Sky High", 6, 14), ("y", "new york", 18, 26)]),
        ("O I-x I-x O I-y O", [("x", "Sky High", 6, 14), ("y", "new", 18, 21)]),
        ("B-x B-x I-x O O O", [("x", "book", 0, 4), ("x", "Sky High", 6, 14)]),
        ("B-x I-y I-y I-x O O", [("x", "book", 0, 4), ("y", "Sky High", 6, 14), ("x", "in", 15, 17)]),
        ("B-x O I-x O O O", [("x", "book", 0, 4), ("x", "High", 10, 14)]),
        ("O x x O y O", [("x", "Sky High", 6, 14), ("y", "new", 18, 21)]),
        ("O O O O O B-x", [("x", "york", 22, 26)]),
        ("B-x I-x I-x I-x I-x I-x", [("x", TEXT, 0, 26)]),
    ],
)
def test_spans(tags: str, expected: list[tuple[str, str, int, int]]) -> None:
    slots = merge_tags(TEXT, WORDS, tags.split(), [1.0] * 6)
    assert [(slot.name, slot.value, slot.start, slot.end) for slot in slots] == expected


def test_score_is_the_mean_of_the_words() -> None:
    slots = merge_tags(TEXT, WORDS, ["B-x", "I-x", "I-x", "O", "B-y", "I-x"], [0.5, 0.6, 1.0, 0.1, 0.25, 0.3])
    assert [slot.score for slot in slots] == pytest.approx([0.7, 0.25, 0.3])


TAGS = ("O", "B-x", "I-x", "I-y", "B-y", "I-z")


def obeys(path: tuple[int, ...]) -> bool:
    """I-x and I-y continue their own slots; I-z has no B-z, so it is free."""
    before = ("O", *(TAGS[tag] for tag in path))
    return all(
        not tag.startswith("I-") or tag == "I-z" or previous[2:] == tag[2:]
        for previous, tag in pairwise(before)
    )


@given(st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_the_best_path_is_the_best_of_all_that_obey_the_rule(seed: int, words: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(words, len(TAGS))).astype(np.float32)
    found = TagRules(TAGS).best_path(scores)
    paths = filter(obeys, product(range(len(TAGS)), repeat=words))
    best = max(paths, key=lambda path: sum(scores[word, tag] for word, tag in enumerate(path)))
    assert tuple(found) == best


@given(st.integers(0, 2**32 - 1), st.integers(0, 4), st.sampled_from([1.0, 3.0, 10.0]))
def test_the_best_path_counts_transitions(seed: int, words: int, sure: float) -> None:
    random = np.random.default_rng(seed)
    scores = random.normal(scale=sure, size=(words, len(TAGS))).astype(np.float32)
    transitions = random.normal(size=(len(TAGS) + 1, len(TAGS))).astype(np.float32)

    def total(path: tuple[int, ...]) -> float:
        steps = zip((len(TAGS), *path), path, strict=False)
        return float(sum(scores[range(words), path]) + sum(transitions[step] for step in steps))

    found = TagRules(TAGS, transitions).best_path(scores)
    assert tuple(found) == max(filter(obeys, product(range(len(TAGS)), repeat=words)), key=total)


def test_without_labels_every_tag_is_free() -> None:
    assert TagRules(("O", "I-x")).best_path(np.log([[0.1, 0.9], [0.6, 0.4]], dtype=np.float32)) == [1, 0]
    assert TagRules(()).best_path(np.log([[0.1, 0.2, 0.7]], dtype=np.float32)) == [2]
