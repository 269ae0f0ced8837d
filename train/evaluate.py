"""Figures on held-out data: accuracy, CoNLL span F1, perplexities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[str, int, int]


def accuracy(predicted: Sequence[object], expected: Sequence[object]) -> float:
    """Share of equal entries, 0 to 1."""
    if len(predicted) != len(expected) or not expected:
        raise ValueError(f"{len(predicted)} predictions for {len(expected)} labels")
    return sum(p == e for p, e in zip(predicted, expected, strict=True)) / len(expected)


def spans(tags: Sequence[str]) -> set[Span]:
    """Spans (type, first, past the last) of a BIO sequence.

    As in conlleval: an I- tag that does not continue a span of the same type starts a new span.
    """
    found: set[Span] = set()
    kind, first = "", 0
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if kind and (prefix != "I" or name != kind):
            found.add((kind, first, index))
            kind = ""
        if prefix != "O" and not kind:
            kind, first = name, index
    return found


def span_f1(predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> float:
    """Micro-averaged F1 over exact spans (conlleval's FB1), 0 to 1."""
    hits = guesses = golds = 0
    for guess_tags, gold_tags in zip(predicted, expected, strict=True):
        if len(guess_tags) != len(gold_tags):
            raise ValueError(f"{len(guess_tags)} tags predicted for {len(gold_tags)} words")
        guess, gold = spans(guess_tags), spans(gold_tags)
        hits += len(guess & gold)
        guesses += len(guess)
        golds += len(gold)
    return 2 * hits / (guesses + golds) if guesses + golds else 1.0


@dataclass(frozen=True)
class Perplexity:
    """One model's score on one text, per unit of text; bits per byte compares across tokenizers."""

    nats: float
    tokens: int
    words: int
    bytes: int

    @property
    def per_token(self) -> float:
        return math.exp(self.nats / self.tokens)

    @property
    def per_word(self) -> float:
        return math.exp(self.nats / self.words)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


def perplexity(nats: float, tokens: int, texts: Sequence[str]) -> Perplexity:
    """The score of `texts`, whose tokens cost `nats` in total; words are separated by white space."""
    words = sum(len(text.split()) for text in texts)
    return Perplexity(nats, tokens, words, sum(len(text.encode()) for text in texts))


def word_sequences(text: str, words: int) -> list[tuple[str, ...]]:
    """All sequences of this many words, in their order; words are separated by white space."""
    parts = text.split()
    return [tuple(parts[start : start + words]) for start in range(len(parts) - words + 1)]


def repeats(text: str, words: int = 4) -> bool:
    """Whether some sequence of this many words occurs twice in `text`, which is how a loop shows."""
    sequences = word_sequences(text, words)
    return len(set(sequences)) < len(sequences)
