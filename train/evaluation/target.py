"""What is evaluated: a checkpoint, an artifact, a deployment or a linear baseline, behind two interfaces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from numpy.typing import NDArray

from runtime.contract import Kind
from runtime.heads import HeadAnswer, HeadInput

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Description:
    """What a target is. None: not known."""

    name: str
    place: str  # checkpoint, artifact, deployment or baseline
    kind: Kind
    problem_type: str = "single_label_classification"  # as transformers names it
    labels: tuple[str, ...] = ()  # classes, or intents
    precision: str | None = None
    version: int | None = None  # of a deployment
    size: int | None = None  # bytes of the weights
    threshold: float | None = None  # an answer whose highest score is less is an abstention
    method: str | None = None  # how it was made, where that is not known from elsewhere


@dataclass(frozen=True, slots=True)
class Usage:
    """What the process that computes has used so far. None: not known."""

    cpu_seconds: float | None = None
    memory: int | None = None  # bytes, resident


class Target(ABC):
    """Asked by one thread."""

    about: Description
    batch: int  # rows that are asked for at once, for throughput

    @abstractmethod
    def usage(self) -> Usage: ...


class HeadTarget(Target):
    """A classifier or an nlu model."""

    batch = 64

    @abstractmethod
    def answers(self, inputs: Sequence[HeadInput]) -> list[HeadAnswer]:
        """Scores are in the order of `about.labels`. Raises EvaluationError."""


class LanguageTarget(Target):
    """A language model."""

    batch = 8
    tokenizer: tokenizers.Tokenizer
    context_length: int  # tokens
    separator: int  # the token that stands before each text

    @abstractmethod
    def logprobs(self, rows: Sequence[Sequence[int]]) -> list[Floats]:
        """Natural logarithms of the probabilities of each row's tokens after the first one.

        A row has up to `context_length` tokens. Raises EvaluationError.
        """

    def encode(self, text: str) -> list[int]:
        """The text's own tokens, without special ones."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids
