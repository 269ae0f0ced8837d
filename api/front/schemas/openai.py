"""OpenAI's shapes: completions, embeddings, models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from api.middle.schemas.base import ModelName, OneOrMany, Schema, Texts
from api.middle.schemas.generate import GenerateParameters
from runtime.contract import LEAST_URGENT, MOST_URGENT


def _no_token_ids(value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, int | list) for item in items):
        raise ValueError("token ids are not supported, since the tokenizer stays with the model; send text")
    return value


PlainTexts = Annotated[Texts, BeforeValidator(_no_token_ids)]
# Fields of OpenAI's that have no meaning here, with the only values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "suffix": (None, ""),
    "logit_bias": (None, {}),
    "dimensions": (None,),
}


def refuse_unsupported(request: BaseModel) -> None:
    """Raises ValueError for a field that would change the answer if it were honoured."""
    for name in NEUTRAL.keys() & type(request).model_fields.keys():
        value = getattr(request, name)
        if value not in NEUTRAL[name] and not (name == "best_of" and value == getattr(request, "n", None)):
            raise ValueError(f"{name}: not supported; leave it out")


class StreamOptions(Schema):
    include_usage: bool = Field(default=False, description="End the stream with a chunk that carries usage.")
    include_obfuscation: bool | None = Field(default=None, description="Accepted, and without effect.")


class CompletionRequest(Schema):
    model: ModelName | None = Field(default=None, description="Default: the oldest language model deployed.")
    prompt: PlainTexts = Field(description="Text, or a list of them; no token ids.")
    max_tokens: int | None = Field(default=16, ge=0, le=1_000_000)
    temperature: float | None = Field(default=1.0, ge=0, le=2)
    top_p: float | None = Field(default=1.0, gt=0, le=1)
    n: int | None = Field(default=1, ge=1, le=16)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = False
    stop: OneOrMany[str] | None = None
    presence_penalty: float | None = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=0.0, ge=-2, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    user: str | None = Field(default=None, description="Accepted, and without effect.")
    best_of: int | None = Field(default=None, description="Not supported beyond the value of n.")
    suffix: str | None = Field(default=None, description="Not supported.")
    logit_bias: dict[str, float] | None = Field(default=None, description="Not supported.")
    # Beyond OpenAI, as vLLM names them.
    top_k: int | None = Field(default=None, ge=0, le=1_000_000, description="Beyond OpenAI.")
    min_p: float | None = Field(default=None, ge=0, le=1, description="Beyond OpenAI.")
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100, description="Beyond OpenAI.")
    ignore_eos: bool | None = Field(default=None, description="Beyond OpenAI.")
    priority: int | None = Field(
        default=None, ge=MOST_URGENT, le=LEAST_URGENT, description="Beyond OpenAI: lower is served sooner."
    )

    @model_validator(mode="after")
    def _supported(self) -> CompletionRequest:
        refuse_unsupported(self)
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: possible only with stream")
        return self

    def parameters(self) -> dict[str, Any]:
        """The same request as parameters of task `generate`; null means the default, as with OpenAI."""
        shared = GenerateParameters.model_fields.keys() & type(self).model_fields.keys()
        given = {
            name: field.get_default() if getattr(self, name) is None else getattr(self, name)
            for name, field in type(self).model_fields.items()
            if name in shared
        }
        if self.seed is not None:
            given["seed"] = self.seed % 2**63
        if self.stop in ("", []):
            given["stop"] = None
        return {name: value for name, value in given.items() if value is not None}


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


class CompletionUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None
    system_fingerprint: str = Field(description="The version and precision that answered.")


class EmbeddingsRequest(Schema):
    model: ModelName | None = Field(default=None, description="Default: the oldest language model deployed.")
    input: PlainTexts = Field(description="Text, or a list of them; no token ids.")
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(default=None, description="Not supported.")
    user: str | None = Field(default=None, description="Accepted, and without effect.")

    @model_validator(mode="after")
    def _supported(self) -> EmbeddingsRequest:
        refuse_unsupported(self)
        return self


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
