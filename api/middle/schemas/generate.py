"""Task `generate`."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from api.middle.schemas.base import (
    Answer,
    LogitBias,
    ModelParameters,
    OneOrMany,
    OneOrManyPrompts,
    Stop,
    Text,
    TextOrTokens,
    as_prompts,
    one_or_many,
    parameter_field,
)
from api.middle.schemas.grammar import TakesGrammar
from runtime.contract import MAX_TOKENIZED
from runtime.grammar import FORMS
from runtime.messages import Candidate, Choice, Timings, Usage
from runtime.parameters import DEFAULT_MAX_TOKENS, GENERATION_PARAMETERS, NUM_CANDIDATES, PARAMETERS
from runtime.receipts import Receipt

MAX_CHOICES = 2048  # prompts times n


# In the OpenAPI document: 0 is possible with echo alone.
ECHO_OR_TOKENS: dict[str, Any] = {
    "anyOf": [
        {"properties": {"max_tokens": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}}},
        {"properties": {"echo": {"const": True}}, "required": ["echo"]},
    ]
}


class GenerateParameters(TakesGrammar, ModelParameters):
    model_config = ConfigDict(json_schema_extra=ECHO_OR_TOKENS)

    prompt: OneOrManyPrompts[str] = Field(
        description="Text or token ids to continue, or a list of either; empty text: the start of a text."
    )
    max_tokens: int | None = parameter_field(PARAMETERS["max_tokens"])
    clamp_max_tokens: bool = parameter_field(PARAMETERS["clamp_max_tokens"])
    min_tokens: int = parameter_field(PARAMETERS["min_tokens"])
    temperature: float = parameter_field(PARAMETERS["temperature"])
    top_k: int = parameter_field(PARAMETERS["top_k"])
    top_p: float = parameter_field(PARAMETERS["top_p"])
    min_p: float = parameter_field(PARAMETERS["min_p"])
    repetition_penalty: float = parameter_field(PARAMETERS["repetition_penalty"])
    presence_penalty: float = parameter_field(PARAMETERS["presence_penalty"])
    frequency_penalty: float = parameter_field(PARAMETERS["frequency_penalty"])
    logit_bias: LogitBias | None = parameter_field(PARAMETERS["logit_bias"])
    stop: Stop | None = parameter_field(PARAMETERS["stop"], default=None)
    seed: int | None = parameter_field(PARAMETERS["seed"])
    n: int = parameter_field(PARAMETERS["n"])
    best_of: int | None = parameter_field(PARAMETERS["best_of"])
    logprobs: int | None = parameter_field(PARAMETERS["logprobs"])
    echo: bool = parameter_field(PARAMETERS["echo"])
    ignore_eos: bool = parameter_field(PARAMETERS["ignore_eos"])
    receipt: bool = parameter_field(PARAMETERS["receipt"])
    stream: bool = Field(default=False, description="Answer as server-sent events while the text grows.")

    @model_validator(mode="after")
    def _together(self) -> GenerateParameters:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 is possible only with echo; give at least 1")
        if self.num_sequences < self.n:
            raise ValueError(f"best_of: must be at least n ({self.n}), not {self.best_of}")
        if self.stream and self.num_sequences > self.n:
            raise ValueError(f"best_of: a stream has n ({self.n}) choices and no others; leave it out")
        choices = self.num_sequences * len(as_prompts(self.prompt))
        if choices > MAX_CHOICES:
            raise ValueError(f"n: {choices} choices over all prompts; at most {MAX_CHOICES} are possible")
        return self

    def sampling(self) -> dict[str, Any]:
        """What the engine reads of them. What is left out is the model's default, else the engine's."""
        given = {name: getattr(self, name) for name in GENERATION_PARAMETERS if name in self.model_fields_set}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def num_sequences(self) -> int:
        """Choices that are generated for each prompt; the answer has `n` of them."""
        return self.n if self.best_of is None else self.best_of

    @property
    def cost(self) -> int:
        tokens = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        return self.num_sequences * (super().cost + len(as_prompts(self.prompt)) * tokens)


def _of_json(value: Any) -> Any:
    """An object that stands in a URL."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _listed(value: Any) -> Any:
    """A list of one stands in a URL like a text."""
    return [value] if isinstance(value, str) else value


class GenerateQuery(GenerateParameters):
    """A URL has no numbers, so that its prompts are texts."""

    prompt: OneOrMany[str] = Field(description="Text to continue; repeated: several.")
    logit_bias: Annotated[LogitBias | None, BeforeValidator(_of_json)] = parameter_field(
        PARAMETERS["logit_bias"]
    )
    response_format: Annotated[dict[str, Any] | None, BeforeValidator(_of_json)] = Field(
        default=None, description=FORMS["response_format"].help
    )
    structured_outputs: Annotated[dict[str, Any] | None, BeforeValidator(_of_json)] = Field(
        default=None, description=FORMS["structured_outputs"].help
    )
    guided_choice: Annotated[list[str] | None, BeforeValidator(_listed)] = Field(
        default=None, description=FORMS["guided_choice"].help
    )


class AnswerReceipt(BaseModel):
    """What `lmaas replay` needs to make the answer again."""

    model: str
    version: int
    requests: list[Receipt] = Field(description="One for each prompt.")


def receipt_field(description: str = "Where it was asked for.") -> Any:
    """A field that an answer without a receipt does not have."""
    return Field(default=None, exclude_if=lambda value: value is None, description=description)


class GenerateAnswer(Answer):
    id: str = Field(description="The task's id.")
    choices: list[Choice]
    usage: Usage | None = Field(default=None, description="In a stream: in the last event only.")
    timings: Timings | None = None
    receipt: AnswerReceipt | None = receipt_field(
        "Where it was asked for; in a stream: in the last event only."
    )


class NextParameters(ModelParameters):
    prompt: TextOrTokens = Field(
        description="Text or token ids whose next token is asked for; empty text: the start of a text."
    )
    top_k: int = parameter_field(NUM_CANDIDATES)


class NextAnswer(Answer):
    candidates: list[Candidate] = Field(description="Likeliest first.")
    usage: Usage


class EmbedParameters(ModelParameters):
    input: OneOrManyPrompts[Text] = Field(description="Text or token ids, or a list of either.")


class EmbedAnswer(Answer):
    embeddings: list[list[float]] = Field(
        description="One vector of length 1 per input: the mean hidden state."
    )
    usage: Usage


TokenizedText = Annotated[str, Field(max_length=MAX_TOKENIZED)]
ListedTokens = Annotated[
    list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(max_length=MAX_TOKENIZED, fail_fast=True)
]


class TokenizeParameters(ModelParameters):
    prompt: Annotated[
        Annotated[TokenizedText, Tag("one")] | Annotated[ListedTokens, Tag("many")],
        Discriminator(one_or_many),
    ] = Field(description="Text, or token ids. It may be longer than the context of the model.")

    @property
    def cost(self) -> int:
        return 1  # nothing is computed


class TokenizeAnswer(Answer):
    text: str = Field(description="Special tokens are spelled out.")
    token_ids: list[int]
    tokens: list[str] = Field(description="Their texts.")
    eos_token: str | None = Field(description="What ends a text of this model.")
    max_model_len: int = Field(description="Tokens that its context holds.")
