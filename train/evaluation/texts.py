"""Perplexity of texts, for each token, word and byte."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from train.evaluate import Perplexity
from train.evaluation.bootstrap import Indices, Statistic
from train.evaluation.measured import Measured
from train.evaluation.target import LanguageTarget
from train.evaluation.windows import windows


@dataclass(frozen=True, slots=True)
class ScoredText:
    """What a language model says of one text."""

    nats: float  # minus the logarithm of its probability
    tokens: int
    words: int  # separated by white space
    bytes: int  # of UTF-8


def score_texts(target: LanguageTarget, texts: Sequence[str], length: int) -> Iterator[ScoredText]:
    """Text by text, each after the separator, in windows of `length` tokens."""
    for text in texts:
        tokens = [target.separator, *target.encode(text)]
        cut = list(windows(len(tokens), length))
        nats = 0.0
        for first in range(0, len(cut), target.batch):
            part = cut[first : first + target.batch]
            answers = target.logprobs([tokens[window.start : window.end] for window in part])
            for window, logprobs in zip(part, answers, strict=True):
                nats -= float(logprobs[window.scored - window.start - 1 :].sum())
        yield ScoredText(nats, len(tokens) - 1, len(text.split()), len(text.encode()))


def measure_texts(scored: Sequence[ScoredText]) -> Measured:
    """Loss and perplexities; bits per byte compares models with different tokenizers."""
    nats, tokens, words, size = (
        np.array([getattr(each, name) for each in scored], np.float64)
        for name in ("nats", "tokens", "words", "bytes")
    )

    def of(rows: Indices) -> Perplexity:
        return Perplexity(nats[rows].sum(), tokens[rows].sum(), words[rows].sum(), size[rows].sum())

    main: dict[str, Statistic] = {
        "loss (nats per token)": lambda rows: math.log(of(rows).per_token),
        "perplexity per token": lambda rows: of(rows).per_token,
        "perplexity per word": lambda rows: of(rows).per_word,
        "perplexity per byte": lambda rows: of(rows).per_byte,
        "bits per byte": lambda rows: of(rows).bits_per_byte,
    }
    counts = {"tokens": int(tokens.sum()), "words": int(words.sum()), "bytes": int(size.sum())}
    return Measured(rows=len(scored), main=main, counts=counts)
