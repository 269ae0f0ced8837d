"""Turns one tag per word into named spans of the text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tokenizers
from numpy.typing import NDArray

from runtime.messages import Slot

OUTSIDE = "O"


@dataclass(frozen=True, slots=True)
class Word:
    """One piece of the tokenizer's pre-tokenizer: the unit that the model was trained to tag."""

    token: int  # index of its first token, at which its tag is read
    start: int  # in characters of the original text, without blanks around the word
    end: int


def split_words(text: str, encoding: tokenizers.Encoding) -> list[Word]:
    """The words of `text` in order, apart from each other; pieces that are only blanks are none.

    Offsets of an encoding count characters of the original text, also after a normalizer, and cover the whole
    character where a token is only some of its bytes.
    """
    words: list[Word] = []
    first = 0
    ids = encoding.word_ids
    for token in range(1, len(ids) + 1):
        if token < len(ids) and ids[token] == ids[first]:
            continue
        start = min(offset[0] for offset in encoding.offsets[first:token])
        end = max(offset[1] for offset in encoding.offsets[first:token])
        piece = text[start:end]
        if words and start < words[-1].end:
            # Lower-casing can make two characters of one, and a cut between them: the first half's tag holds.
            words[-1] = replace(words[-1], end=max(end, words[-1].end))
        elif piece.strip():
            start += len(piece) - len(piece.lstrip())
            words.append(Word(first, start, start + len(piece.strip())))
        first = token
    limits = [*(word.start for word in words[1:]), len(text)]
    return [_with_marks(text, word, limit) for word, limit in zip(words, limits, strict=False)]


def _with_marks(text: str, word: Word, limit: int) -> Word:
    """The word with the accents behind it that no token covers, as a normalizer dropped or composed them."""
    end = word.end
    while end < limit and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return replace(word, end=end)


class TagRules:
    """The rule of BIO tags for one list of labels: I-x comes after B-x or I-x only.

    A label I-x without a label B-x is free. `transitions` `[labels + 1, labels]` are added to a path's sum of
    log probabilities: the score of each label after each other one, and in the last row after no word.
    """

    def __init__(self, labels: Sequence[str], transitions: NDArray[np.float32] | None = None) -> None:
        places = {label: place for place, label in enumerate(labels)}
        inside = [label for label in labels if label.startswith("I-") and f"B-{label[2:]}" in places]
        self._inside = np.array([places[label] for label in inside], np.int64)
        self._begin = np.array([places[f"B-{label[2:]}"] for label in inside], np.int64)
        self._allowed = None if transitions is None else self._only_allowed(transitions)

    def best_path(self, log_probabilities: NDArray[np.float32]) -> list[int]:
        """The tags with the highest sum of log probabilities `[words, labels]` that obey the rule.

        It is Viterbi's algorithm: what came before a label is the best of all, or of two for I-x.
        """
        highest = log_probabilities.argmax(axis=1)
        if self._allowed is not None:
            if _no_other_is_better(log_probabilities, highest, self._allowed):
                return [int(tag) for tag in highest]
            return _best_with_transitions(log_probabilities, self._allowed)
        if self._obeys(highest):
            return [int(tag) for tag in highest]
        scores = log_probabilities[0].copy()
        scores[self._inside] = -np.inf
        came_from = []
        for word in log_probabilities[1:]:
            before = np.full(len(scores), scores.argmax())
            continues = scores[self._inside] >= scores[self._begin]
            before[self._inside] = np.where(continues, self._inside, self._begin)
            came_from.append(before)
            scores = scores[before] + word
        return _follow(scores, came_from)

    def _only_allowed(self, transitions: NDArray[np.float32]) -> NDArray[np.float32]:
        """The transitions with -inf where the rule forbids them, transposed: `[labels, labels + 1]`."""
        found = transitions.T.copy()
        for inside, begin in zip(self._inside, self._begin, strict=True):
            before = found[inside, [inside, begin]]
            found[inside] = -np.inf
            found[inside, [inside, begin]] = before
        return found

    def _obeys(self, tags: NDArray[np.int64]) -> bool:
        """Whether each I-x of `tags` continues its slot."""
        before = np.concatenate(([-1], tags[:-1]))
        inside, place = (tags[:, None] == self._inside).nonzero()
        allowed = (before[inside] == self._inside[place]) | (before[inside] == self._begin[place])
        return bool(allowed.all())


def _no_other_is_better(
    log_probabilities: NDArray[np.float32], highest: NDArray[np.int64], allowed: NDArray[np.float32]
) -> bool:
    """Whether the path of the highest tags is surely the best, which saves the search for most texts.

    Another tag of a word costs what it is less probable, and gains at most what the transitions to this word
    and to the next are below the highest of all.
    """
    words = np.arange(len(highest))
    others = log_probabilities.copy()
    others[words, highest] = -np.inf
    cost = log_probabilities[words, highest] - others.max(axis=1)
    # The last column, which -1 is, is of the first word.
    gain = allowed.max() - allowed[highest, np.concatenate(([-1], highest[:-1]))]
    return bool((cost >= gain + np.append(gain[1:], 0)).all())


def _best_with_transitions(log_probabilities: NDArray[np.float32], allowed: NDArray[np.float32]) -> list[int]:
    labels = np.arange(len(allowed))
    scores = log_probabilities[0] + allowed[:, -1]
    came_from = []
    for word in log_probabilities[1:]:
        sums = allowed[:, :-1] + scores
        before = sums.argmax(axis=1)
        came_from.append(before)
        scores = sums[labels, before] + word
    return _follow(scores, came_from)


def _follow(scores: NDArray[np.float32], came_from: Sequence[NDArray[np.int64]]) -> list[int]:
    """The path to the best of the last word's `scores`: `came_from` has the label before each label."""
    path = [int(scores.argmax())]
    for before in reversed(came_from):
        path.append(int(before[path[-1]]))
    return path[::-1]


def merge_tags(
    text: str, words: Sequence[Word], tags: Sequence[str], probabilities: Sequence[float]
) -> list[Slot]:
    """The slots of `text`, in order.

    B-x begins a slot; I-x continues one of the same name and begins one otherwise; a tag without a prefix
    counts as I-. A slot's score is the mean probability of its words' tags.
    """
    slots: list[Slot] = []
    scores: list[float] = []
    open_name: str | None = None
    for word, tag, probability in zip(words, tags, probabilities, strict=True):
        name = _name(tag)
        if name is not None and (name != open_name or tag.startswith("B-")):
            slots.append(Slot(name, "", word.start, word.end, 0.0))
            scores = []
        open_name = name
        if name is not None:
            scores.append(float(probability))
            value = text[slots[-1].start : word.end]
            slots[-1] = replace(slots[-1], value=value, end=word.end, score=sum(scores) / len(scores))
    return slots


def _name(tag: str) -> str | None:
    """The slot's name in a tag; None outside of slots."""
    if tag == OUTSIDE:
        return None
    return tag[2:] if tag.startswith(("B-", "I-")) else tag
