"""OpenAI's shapes of a conversation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from api.front.schemas.openai import RECEIPT, GeneratingRequest
from api.middle.schemas.base import MAX_PROMPTS, Schema, one_or_many
from api.middle.schemas.generate import AnswerReceipt, receipt_field
from runtime.messages import Usage
from runtime.parameters import PARAMETERS

MAX_PARTS = 256


class TextPart(Schema):
    type: Literal["text"] = Field(description="Text alone: the models read nothing else.")
    text: str


class Message(Schema):
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"role": {"const": "assistant"}}},
                {"properties": {"content": {"not": {"type": "null"}}}, "required": ["content"]},
            ]
        }
    )

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        Annotated[
            Annotated[str, Tag("one")] | Annotated[list[TextPart], Field(max_length=MAX_PARTS), Tag("many")],
            Discriminator(one_or_many),
        ]
        | None
    ) = None
    name: str | None = None
    refusal: str | None = Field(default=None, description="Accepted, and without effect.")
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise ValueError("content: missing")
        return self

    def values(self) -> dict[str, str]:
        """As a chat template reads it."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        named = {} if self.name is None else {"name": self.name}
        return {"role": self.role, "content": text, **named}


class ChatRequest(GeneratingRequest):
    messages: list[Message] = Field(min_length=1, max_length=MAX_PROMPTS)
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        le=PARAMETERS["max_tokens"].range.high,
        description="Most tokens per choice; default: what the context has left.",
    )
    max_completion_tokens: int | None = Field(
        default=None, ge=1, le=PARAMETERS["max_tokens"].range.high, description="The same, by its newer name."
    )
    logprobs: bool | None = Field(default=False, description="Answer with the log-probabilities of tokens.")
    top_logprobs: int | None = Field(default=None, ge=0, le=20, description="Alternatives to each token.")
    tool_choice: Literal["none", "auto"] | None = Field(default=None, description="There are no tools.")
    add_generation_prompt: bool | None = Field(
        default=True, description="Beyond OpenAI. End the prompt with what begins an answer."
    )

    @model_validator(mode="after")
    def _together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs")
        return self

    def parameters(self, prompt: str, stops: tuple[str, ...], context_length: int) -> dict[str, Any]:
        """The same request as parameters of task `generate`."""
        asked = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        given = {
            name: value for name, value in self.shared().items() if name not in ("logprobs", "max_tokens")
        }
        own = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return {
            **given,
            "prompt": prompt,
            "stop": [*own, *stops],
            "max_tokens": context_length if asked is None else asked,
            "clamp_max_tokens": asked is None,
            **({"logprobs": self.top_logprobs or 0} if self.logprobs else {}),
        }


class ChatTopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(ChatTopLogprob):
    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(BaseModel):
    content: list[ChatLogprob]
    refusal: None = None


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None
    system_fingerprint: str = Field(description="The version and precision that answered.")
    receipt: AnswerReceipt | None = receipt_field(RECEIPT)


class ChatDelta(BaseModel):
    role: Literal["assistant"] | None = Field(default=None, description="In the first piece of a choice.")
    content: str


class ChatChunkChoice(BaseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    system_fingerprint: str
    receipt: AnswerReceipt | None = receipt_field(RECEIPT)
