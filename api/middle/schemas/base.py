"""What the task schemas share: strictness, texts, model names, usage, provenance of an answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from api.back.cluster.records import Target
from runtime.contract import LEAST_URGENT, MOST_URGENT

MAX_ITEMS = 256  # items of one list request
Method = Literal["head", "zero-shot"]


class Schema(BaseModel):
    """Input: unknown fields, coerced types, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def _one_or_many(value: Any) -> str:
    return "many" if isinstance(value, list | tuple) else "one"


Item = TypeVar("Item")
Text = Annotated[str, Field(min_length=1)]
# The tags give one message for a bad value, about the shape that the caller chose.
OneOrMany = Annotated[
    Annotated[Item, Tag("one")]
    | Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS), Tag("many")],
    Discriminator(_one_or_many),
]
Texts = OneOrMany[Text]


def _number_where_digits(value: Any) -> Any:
    return (
        int(value)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10
        else value
    )


def _number_or_alias(value: Any) -> str:
    return "number" if isinstance(value, int) else "alias"


ModelName = Annotated[str, Field(min_length=1, max_length=128)]
VersionName = Annotated[
    Annotated[Annotated[int, Field(ge=1)], Tag("number")]
    | Annotated[Annotated[str, Field(min_length=1, max_length=64)], Tag("alias")],
    Discriminator(_number_or_alias),
    BeforeValidator(_number_where_digits),
]
Labels = Annotated[list[Text], Field(min_length=2, max_length=MAX_ITEMS)]


class TaskParameters(Schema):
    """What every task type takes."""

    model: ModelName | None = Field(
        default=None, description="Model to ask; default: the oldest deployment of the kind."
    )
    version: VersionName | None = Field(default=None, description="Version number or alias of the model.")
    deadline_ms: int | None = Field(
        default=None,
        ge=1,
        le=86_400_000,
        description="Milliseconds from arrival after which the task expires (504).",
    )


class ModelParameters(TaskParameters):
    """What every task type takes that asks a model."""

    priority: int = Field(
        default=0,
        ge=MOST_URGENT,
        le=LEAST_URGENT,
        description="Lower is served sooner where requests wait for a language model. Within one priority, "
        "callers share the model equally. Models with a trained head have no such queue.",
    )


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int

    @classmethod
    def total(cls, usages: list[dict[str, Any]]) -> Usage:
        """The sum of what the engine reported for each request."""
        prompt = sum(usage.get("prompt_tokens", 0) for usage in usages)
        completion = sum(usage.get("completion_tokens", 0) for usage in usages)
        return cls(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


VariantName = Literal["fp32", "fp16", "int8", "int4"]  # as `Variant`; a test holds them equal


class Answer(BaseModel):
    """What every answer says of its origin."""

    model: str
    version: int
    precision: VariantName


def origin(target: Target) -> dict[str, Any]:
    """The fields of `Answer` for a deployment."""
    return {"model": target.model, "version": target.version, "precision": target.precision.value}


def as_list(value: Item | list[Item]) -> list[Item]:
    return value if isinstance(value, list) else [value]
