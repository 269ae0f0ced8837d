"""Figures on held-out data: accuracy, CoNLL span F1, perplexities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import accuracy_score

Span = tuple[str, int, int]


def accuracy(predicted: Sequence[object], expected: Sequence[object]) -> float:
    """Share of equal entries, 0 to 1."""
    if len(predicted) != len(expected) or not expected:
        raise ValueError(f"{len(predicted)} predictions for {len(expected)} labels")
    return float(accuracy_score(expected, predicted))


def spans(tags: Sequence[str]) -> set[Span]:
    """Spans (type, first, past the last) of a BIO sequence.

    As in conlleval: an I- tag that does not continue a span of the same type starts a new span.
    """
    return {(kind, first, last + 1) for kind, first, last in get_entities(list(tags))}


def span_f1(predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> float:
    """Micro-averaged F1 over exact spans (conlleval's FB1), 0 to 1; 1 without any span."""
    for guess, gold in zip(predicted, expected, strict=True):
        if len(guess) != len(gold):
            raise ValueError(f"{len(guess)} tags predicted for {len(gold)} words")
    if not any(map(spans, (*predicted, *expected))):
        return 1.0
    return float(f1_score(list(map(list, expected)), list(map(list, predicted)), zero_division=0))


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
    def per_byte(self) -> float:
        return math.exp(self.nats / self.bytes)

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


def repetition(texts: Sequence[str], words: int = 4) -> float:
    """Share of the sequences of this many words that came before in the same text, 0 to 1.

    It is seq-rep-n of Welleck et al., Neural Text Generation with Unlikelihood Training (2019).
    """
    found = [word_sequences(text, words) for text in texts]
    total = sum(map(len, found))
    return 1 - sum(len(set(each)) for each in found) / total if total else 0.0
