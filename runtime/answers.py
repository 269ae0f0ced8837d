"""Answers of the engine, and how they read as the tensor `details` (JSON)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runtime.contract import FinishReason


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token beside what the model thought of it; `logprob` is None for the first token of a text."""

    token_id: int
    text: str
    logprob: float | None
    top: tuple[TokenRecord, ...] = ()  # the likeliest tokens at this place, likeliest first

    def plain(self) -> dict[str, Any]:
        return {"token_id": self.token_id, "text": self.text, "logprob": self.logprob}

    def details(self) -> dict[str, Any]:
        return {**self.plain(), "top": [record.plain() for record in self.top]}


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int = 0

    def details(self) -> dict[str, int]:
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}


@dataclass(frozen=True, slots=True)
class Timings:
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float

    def details(self) -> dict[str, float]:
        return {
            "queue_seconds": self.queue_seconds,
            "prefill_seconds": self.prefill_seconds,
            "decode_seconds": self.decode_seconds,
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """What is new in one generated text; the whole text where the request does not stream."""

    index: int
    text: str
    token_ids: list[int]  # generated ones; the token that ended the text is among them
    logprobs: list[TokenRecord] | None
    finish_reason: FinishReason | None
    cumulative_logprob: float  # of all tokens generated so far

    def details(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "text": self.text,
            "token_ids": self.token_ids,
            "logprobs": None if self.logprobs is None else [record.details() for record in self.logprobs],
            "finish_reason": None if self.finish_reason is None else self.finish_reason.value,
        }


@dataclass(frozen=True, slots=True)
class Generated:
    prompt_tokens: int
    choices: list[Choice]  # those with something new
    usage: Usage | None  # in the last answer only, as are the timings
    timings: Timings | None

    def details(self) -> dict[str, Any]:
        return {
            "choices": [choice.details() for choice in self.choices],
            "usage": None if self.usage is None else self.usage.details(),
            "timings": None if self.timings is None else self.timings.details(),
        }


@dataclass(frozen=True, slots=True)
class Score:
    """Log-probability of one continuation, in nats."""

    num_bytes: int
    tokens: list[TokenRecord] = field(default_factory=list)

    def details(self) -> dict[str, Any]:
        return {
            "logprob": sum(record.logprob or 0.0 for record in self.tokens),
            "num_tokens": len(self.tokens),
            "num_bytes": self.num_bytes,
            "tokens": [record.plain() for record in self.tokens],
        }


@dataclass(frozen=True, slots=True)
class Scored:
    scores: list[Score]
    usage: Usage

    def details(self) -> dict[str, Any]:
        return {"scores": [score.details() for score in self.scores], "usage": self.usage.details()}


@dataclass(frozen=True, slots=True)
class Candidate:
    token_id: int
    text: str
    probability: float
    logprob: float


@dataclass(frozen=True, slots=True)
class Candidates:
    candidates: list[Candidate]
    usage: Usage

    def details(self) -> dict[str, Any]:
        listed = [
            {
                "token_id": candidate.token_id,
                "text": candidate.text,
                "probability": candidate.probability,
                "logprob": candidate.logprob,
            }
            for candidate in self.candidates
        ]
        return {"candidates": listed, "usage": self.usage.details()}


@dataclass(frozen=True, slots=True)
class Embedded:
    embedding: list[float]  # of length 1
    usage: Usage

    def details(self) -> dict[str, Any]:
        return {"embedding": self.embedding, "usage": self.usage.details()}


Answer = Generated | Scored | Candidates | Embedded
