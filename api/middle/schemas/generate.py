"""Task `generate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from api.middle.schemas.base import Answer, ModelParameters, OneOrMany, Text, Texts, Usage

MAX_CHOICES = 256  # prompts times n


class GenerateParameters(ModelParameters):
    prompt: Texts = Field(description="Text to continue, or a list of them.")
    max_tokens: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Most tokens per choice; default: 64, or what the context has left. 0 only with echo.",
    )
    temperature: float = Field(
        default=1.0, ge=0, le=100, description="0 takes the likeliest token each time."
    )
    top_k: int = Field(default=0, ge=0, le=1_000_000, description="Keep the k likeliest tokens; 0 keeps all.")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Keep the likeliest tokens that together reach this probability."
    )
    min_p: float = Field(
        default=0.0, ge=0, le=1, description="Drop tokens below this share of the likeliest one."
    )
    repetition_penalty: float = Field(
        default=1.0, ge=0.01, le=100, description="Above 1 makes tokens seen before rarer."
    )
    presence_penalty: float = Field(
        default=0.0, ge=-2, le=2, description="Taken once off tokens generated before."
    )
    frequency_penalty: float = Field(
        default=0.0, ge=-2, le=2, description="Taken off a token per time it was generated."
    )
    stop: OneOrMany[Annotated[str, Field(min_length=1, max_length=256)]] | None = Field(
        default=None, description="Text that ends a choice and is not part of it; at most 16."
    )
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1, description="Same seed, same answer.")
    n: int = Field(default=1, ge=1, le=16, description="Choices per prompt.")
    logprobs: int | None = Field(
        default=None, ge=0, le=20, description="Log-probabilities, with so many alternatives."
    )
    echo: bool = Field(default=False, description="Begin each choice with its prompt.")
    ignore_eos: bool = Field(default=False, description="Go on after the end-of-text token.")
    stream: bool = Field(default=False, description="Answer as server-sent events while the text grows.")

    @model_validator(mode="after")
    def _together(self) -> GenerateParameters:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 is possible only with echo; give at least 1")
        if isinstance(self.stop, list) and len(self.stop) > 16:
            raise ValueError(f"stop: {len(self.stop)} strings; at most 16 are possible")
        choices = self.n * (len(self.prompt) if isinstance(self.prompt, list) else 1)
        if choices > MAX_CHOICES:
            raise ValueError(f"n: {choices} choices over all prompts; at most {MAX_CHOICES} are possible")
        return self


class TopToken(BaseModel):
    token_id: int
    text: str
    logprob: float


class TokenLogprob(BaseModel):
    token_id: int
    text: str
    logprob: float | None = Field(description="Null for the first token of an echoed prompt.")
    top: list[TopToken] = Field(default_factory=list, description="The likeliest tokens at this place.")


class Choice(BaseModel):
    index: int = Field(description="Counts over prompts, then over `n`.")
    text: str
    token_ids: list[int] = []
    finish_reason: Literal["stop", "length", "cancelled", "error"] | None = None
    logprobs: list[TokenLogprob] | None = None


class Timings(BaseModel):
    """Seconds inside the engine; of several prompts, the longest."""

    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


class GenerateAnswer(Answer):
    id: str = Field(description="The task's id.")
    choices: list[Choice]
    usage: Usage | None = Field(default=None, description="In a stream: in the last event only.")
    timings: Timings | None = None


class NextParameters(ModelParameters):
    prompt: Text = Field(description="Text whose next token is asked for.")
    top_k: int = Field(default=10, ge=1, le=100, description="How many candidates.")


class Candidate(BaseModel):
    token_id: int
    text: str
    probability: float
    logprob: float


class NextAnswer(Answer):
    candidates: list[Candidate] = Field(description="Likeliest first.")
    usage: Usage


class EmbedParameters(ModelParameters):
    input: Texts = Field(description="Text, or a list of them.")


class EmbedAnswer(Answer):
    embeddings: list[list[float]] = Field(
        description="One vector of length 1 per input: the mean hidden state."
    )
    usage: Usage
