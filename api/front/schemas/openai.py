"""OpenAI's shapes: completions, embeddings, models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.middle.schemas.base import (
    LogitBias,
    ModelName,
    OneOrManyPrompts,
    Schema,
    Stop,
    TakesNeutral,
    Text,
    parameter_field,
)
from api.middle.schemas.generate import (
    ECHO_OR_TOKENS,
    AnswerReceipt,
    EmbedParameters,
    GenerateParameters,
    receipt_field,
)
from api.middle.schemas.grammar import TakesGrammar
from runtime.messages import Usage
from runtime.parameters import MAX_INT64, PARAMETERS

RECEIPT = "Beyond OpenAI. Where it was asked for; in a stream: in the last chunk."


class StreamOptions(Schema):
    include_usage: bool = Field(default=False, description="End the stream with a chunk that carries usage.")
    include_obfuscation: bool | None = Field(default=None, description="Accepted, and without effect.")


def _shared(name: str, **other: Any) -> Any:
    """A parameter that OpenAI has too; `other` holds where OpenAI sets another limit or default."""
    return parameter_field(PARAMETERS[name], **other)


def _beyond(name: str) -> Any:
    """A parameter that OpenAI does not have, under vLLM's name."""
    parameter = PARAMETERS[name]
    return parameter_field(parameter, default=None, description=f"Beyond OpenAI. {parameter.help}")


class GeneratingRequest(TakesGrammar):
    """What completions and conversations take."""

    model: ModelName | None = Field(default=None, description="Default: the oldest language model deployed.")
    temperature: float | None = _shared("temperature", le=2)
    top_p: float | None = _shared("top_p")
    n: int | None = _shared("n")
    stream: bool | None = False
    stream_options: StreamOptions | None = Field(
        default=None, description="Without stream it has no effect: the answer carries usage anyway."
    )
    stop: Stop | None = _shared("stop", default=None)
    presence_penalty: float | None = _shared("presence_penalty")
    frequency_penalty: float | None = _shared("frequency_penalty")
    logit_bias: LogitBias | None = _shared("logit_bias")
    seed: int | None = _shared("seed", ge=-MAX_INT64 - 1)
    min_tokens: int | None = _beyond("min_tokens")
    top_k: int | None = _beyond("top_k")
    min_p: float | None = _beyond("min_p")
    repetition_penalty: float | None = _beyond("repetition_penalty")
    ignore_eos: bool | None = _beyond("ignore_eos")
    priority: int | None = _beyond("priority")
    special_tokens: bool | None = _beyond("special_tokens")
    receipt: bool | None = _beyond("receipt")

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def shared(self) -> dict[str, Any]:
        """The fields that task `generate` has, too; null means the default, as with OpenAI.

        What is left out stays so, for the model's own default to hold.
        """
        names = GenerateParameters.model_fields.keys() & self.model_fields_set
        given = {name: getattr(self, name) for name in names}
        if self.seed is not None:
            given["seed"] = self.seed % 2**63
        return {name: value for name, value in given.items() if value is not None}


class CompletionRequest(GeneratingRequest):
    model_config = ConfigDict(json_schema_extra=ECHO_OR_TOKENS)

    prompt: OneOrManyPrompts[str] | None = Field(
        default="",
        description="Text or token ids, or a list of either. Empty text, or none: the start of a text, which "
        "is the model's end-of-text token.",
    )
    max_tokens: int | None = _shared(
        "max_tokens",
        default=16,
        description="Most tokens per choice; default: 16, or what the context has left. 0 only with echo.",
    )
    best_of: int | None = _shared("best_of")
    logprobs: int | None = _shared("logprobs")
    echo: bool | None = _shared("echo")

    def parameters(self) -> dict[str, Any]:
        """The same request as parameters of task `generate`."""
        given = self.shared()
        given.setdefault("prompt", "")
        if "max_tokens" not in given:  # it is our default that may not fit
            given |= {"max_tokens": type(self).model_fields["max_tokens"].default, "clamp_max_tokens": True}
        return given


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int] = Field(description="Character offset of each token in the choice's text.")


class CompletionChoice(BaseModel):
    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    system_fingerprint: str = Field(description="The version and precision that answered.")
    receipt: AnswerReceipt | None = receipt_field(RECEIPT)


class EmbeddingsRequest(TakesNeutral):
    model: ModelName | None = Field(default=None, description="Default: the oldest language model deployed.")
    input: OneOrManyPrompts[Text] = Field(description="Text or token ids, or a list of either.")
    encoding_format: Literal["float", "base64"] | None = "float"
    special_tokens: bool | None = _beyond("special_tokens")

    def parameters(self) -> EmbedParameters:
        """The same request as parameters of task `embed`."""
        special_tokens = self.special_tokens is not False
        return EmbedParameters(model=self.model, input=self.input, special_tokens=special_tokens)


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Numbers, or little-endian float32 in base64.")


class EmbeddingsUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage
