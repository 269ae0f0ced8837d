"""The answers of the models, as they travel from the engine to the façade.

`to_json` makes the object that the tensor `details` or `slots` holds, and `from_json` reads it back. The
schemas of the tasks have these classes as their fields, and pydantic reads `metadata` as arguments of its
`Field`. A server streams thousands of them a second; therefore encoder and decoder are plain code. Standard
library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from runtime.contract import FinishReason, Operation
from runtime.receipts import Receipt


def _help(text: str) -> dict[str, str]:
    """Metadata of a field that has this text in the OpenAPI document."""
    return {"description": text}


AnyFlat = TypeVar("AnyFlat", bound="_Flat")


class _Flat:
    """A dataclass with slots whose fields are the members of its object."""

    __slots__: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls: type[AnyFlat], data: Mapping[str, Any]) -> AnyFlat:
        make: Callable[..., AnyFlat] = cls
        return make(*[data[name] for name in cls.__slots__])


@dataclass(frozen=True, slots=True)
class ScoredToken:
    token_id: int
    text: str
    logprob: float

    def to_json(self) -> dict[str, Any]:
        return {"token_id": self.token_id, "text": self.text, "logprob": self.logprob}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScoredToken:
        return cls(data["token_id"], data["text"], data["logprob"])


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of a text, and the alternatives to it."""

    token_id: int
    text: str
    logprob: float | None = field(metadata=_help("Null for the first token of an echoed prompt."))
    top: tuple[ScoredToken, ...] = field(
        default=(), metadata=_help("The likeliest tokens at this place, likeliest first.")
    )
    text_offset: int = field(
        default=0, metadata=_help("Where in the choice's text it begins, in characters.")
    )

    def to_json(self) -> dict[str, Any]:
        return {
            "token_id": self.token_id,
            "text": self.text,
            "logprob": self.logprob,
            "text_offset": self.text_offset,
            "top": [token.to_json() for token in self.top],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TokenLogprob:
        top = tuple([ScoredToken.from_json(token) for token in data["top"]])
        return cls(data["token_id"], data["text"], data["logprob"], top, data["text_offset"])


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int = 0) -> Usage:
        return cls(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)

    @classmethod
    def total(cls, usages: Iterable[Usage]) -> Usage:
        """The sum of what the engine reported for each request."""
        listed = list(usages)
        return cls.of(
            sum(usage.prompt_tokens for usage in listed), sum(usage.completion_tokens for usage in listed)
        )

    def to_json(self) -> dict[str, int]:
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Usage:
        return cls.of(data["prompt_tokens"], data["completion_tokens"])


@dataclass(frozen=True, slots=True)
class Timings(_Flat):
    """Seconds that a request spent in the engine; of several requests, the longest."""

    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float

    @classmethod
    def longest(cls, timings: Iterable[Timings]) -> Timings | None:
        """The longest of each; None where there are none."""
        listed = list(timings)
        if not listed:
            return None
        return cls(
            max(each.queue_seconds for each in listed),
            max(each.prefill_seconds for each in listed),
            max(each.decode_seconds for each in listed),
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """What is new in one generated text; the whole text where the request does not stream."""

    index: int = field(metadata=_help("Counts over prompts, then over `n`."))
    text: str
    token_ids: list[int]  # generated ones; the token that ended the text is among them
    logprobs: list[TokenLogprob] | None
    finish_reason: FinishReason | None
    # Of all tokens generated so far. Neither `details` nor an answer of the façade has it.
    cumulative_logprob: float = field(default=0.0, metadata={"exclude": True})

    def to_json(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "text": self.text,
            "token_ids": self.token_ids,
            "logprobs": None if self.logprobs is None else [token.to_json() for token in self.logprobs],
            "finish_reason": None if self.finish_reason is None else self.finish_reason.value,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Choice:
        logprobs, reason = data["logprobs"], data["finish_reason"]
        return cls(
            data["index"],
            data["text"],
            data["token_ids"],
            None if logprobs is None else [TokenLogprob.from_json(token) for token in logprobs],
            None if reason is None else FinishReason(reason),
        )


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer of operation `generate`, or a piece of one where the request streams."""

    operation: ClassVar[Operation] = Operation.GENERATE

    prompt_tokens: int  # in a piece that was decoded, 0 unless it is the last one
    choices: list[Choice]  # those with something new
    usage: Usage | None  # in the last piece only, as are the timings
    timings: Timings | None
    prompt: str = ""  # as text; `details` does not have it
    receipt: Receipt | None = None  # in the last piece, where the request asks for one

    def to_json(self) -> dict[str, Any]:
        return {
            "choices": [choice.to_json() for choice in self.choices],
            "usage": None if self.usage is None else self.usage.to_json(),
            "timings": None if self.timings is None else self.timings.to_json(),
            **({} if self.receipt is None else {"receipt": self.receipt.to_json()}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Generated:
        usage = None if data["usage"] is None else Usage.from_json(data["usage"])
        return cls(
            0 if usage is None else usage.prompt_tokens,
            [Choice.from_json(choice) for choice in data["choices"]],
            usage,
            None if data["timings"] is None else Timings.from_json(data["timings"]),
            receipt=Receipt.from_json(data["receipt"]) if "receipt" in data else None,
        )


@dataclass(frozen=True, slots=True)
class Score:
    """Log-probability of one continuation, in nats."""

    num_bytes: int
    tokens: list[ScoredToken] = field(default_factory=list)

    @property
    def logprob(self) -> float:
        return sum(token.logprob for token in self.tokens)

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    def to_json(self) -> dict[str, Any]:
        return {
            "logprob": self.logprob,
            "num_tokens": self.num_tokens,
            "num_bytes": self.num_bytes,
            "tokens": [token.to_json() for token in self.tokens],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Score:
        return cls(data["num_bytes"], [ScoredToken.from_json(token) for token in data["tokens"]])


@dataclass(frozen=True, slots=True)
class Scored:
    operation: ClassVar[Operation] = Operation.SCORE

    scores: list[Score]
    usage: Usage

    def to_json(self) -> dict[str, Any]:
        return {"scores": [score.to_json() for score in self.scores], "usage": self.usage.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scored:
        return cls([Score.from_json(score) for score in data["scores"]], Usage.from_json(data["usage"]))


@dataclass(frozen=True, slots=True)
class Candidate(_Flat):
    token_id: int
    text: str
    probability: float
    logprob: float


@dataclass(frozen=True, slots=True)
class Candidates:
    operation: ClassVar[Operation] = Operation.NEXT

    candidates: list[Candidate]
    usage: Usage

    def to_json(self) -> dict[str, Any]:
        listed = [candidate.to_json() for candidate in self.candidates]
        return {"candidates": listed, "usage": self.usage.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidates:
        listed = [Candidate.from_json(candidate) for candidate in data["candidates"]]
        return cls(listed, Usage.from_json(data["usage"]))


@dataclass(frozen=True, slots=True)
class Embedded:
    operation: ClassVar[Operation] = Operation.EMBED

    embedding: list[float]  # of length 1
    usage: Usage

    def to_json(self) -> dict[str, Any]:
        return {"embedding": self.embedding, "usage": self.usage.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Embedded:
        return cls(data["embedding"], Usage.from_json(data["usage"]))


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A text and its tokens; a special token is spelled out in all of them."""

    operation: ClassVar[Operation] = Operation.TOKENIZE

    text: str
    token_ids: list[int]
    tokens: list[str]
    eos_token: str | None  # the token that ends a text of this model
    usage: Usage = Usage(0, 0, 0)  # nothing is computed

    def to_json(self) -> dict[str, Any]:
        listed = {"token_ids": self.token_ids, "tokens": self.tokens}
        return {"text": self.text, **listed, "eos_token": self.eos_token}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tokenized:
        return cls(data["text"], data["token_ids"], data["tokens"], data["eos_token"])


@dataclass(frozen=True, slots=True)
class Slot(_Flat):
    """A span of an utterance that a model of kind `nlu` has named."""

    name: str
    value: str
    start: int = field(metadata=_help("Character offset in the input."))
    end: int = field(metadata=_help("Offset after the last character."))
    score: float = field(metadata=_help("Probability, 0 to 1."))


Answer = Generated | Scored | Candidates | Embedded | Tokenized

_TYPES: tuple[type[Answer], ...] = (Generated, Scored, Candidates, Embedded, Tokenized)
_BY_OPERATION: Mapping[Operation, type[Answer]] = {answer.operation: answer for answer in _TYPES}


def answer_from_json(operation: Operation, data: Mapping[str, Any]) -> Answer:
    """The answer to a request of this operation.

    Raises KeyError, TypeError or ValueError where `data` is not one.
    """
    return _BY_OPERATION[operation].from_json(data)
