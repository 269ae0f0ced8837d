"""What the task schemas share: strictness, texts, model names, usage, provenance of an answer."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from api.back.cluster.records import Target
from runtime.contract import MAX_PROMPT_TOKENS
from runtime.parameters import (
    IGNORED_PARAMETERS,
    MAX_BIAS,
    MAX_BIASED_TOKENS,
    MAX_STOP_LENGTH,
    MAX_STOP_STRINGS,
    NEUTRAL_PARAMETERS,
    PARAMETERS,
    Parameter,
    why_not_neutral,
)

MAX_ITEMS = 256  # items of one list request
MAX_PROMPTS = 2048  # prompts of one request, as OpenAI allows; the handlers ask models for a few at a time
CHARACTERS_PER_TOKEN = 4  # of English, about
WITHOUT_EFFECT = NEUTRAL_PARAMETERS.keys() | IGNORED_PARAMETERS
VERSION_NUMBER = re.compile("[1-9][0-9]{0,8}")  # in text; any other text is an alias
Method = Literal["head", "zero-shot"]


class Schema(BaseModel):
    """Input: unknown fields, coerced types, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class TakesNeutral(Schema):
    """Accepts a parameter that has no meaning here where its value changes nothing.

    IGNORED_PARAMETERS never change anything, NEUTRAL_PARAMETERS have a value that does not.
    """

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name in [name for name in data if name in NEUTRAL_PARAMETERS]:
            if refusal := why_not_neutral(name, data[name]):
                raise ValueError(f"{name}: {refusal}")
        return {name: value for name, value in data.items() if name not in WITHOUT_EFFECT}


def one_or_many(value: Any) -> str:
    return "many" if isinstance(value, list | tuple) else "one"


Item = TypeVar("Item")
Text = Annotated[str, Field(min_length=1)]
# The tags give one message for a bad value, about the shape that the caller chose.
OneOrMany = Annotated[
    Annotated[Item, Tag("one")]
    | Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS), Tag("many")],
    Discriminator(one_or_many),
]
Texts = OneOrMany[Text]
StopString = Annotated[str, Field(max_length=MAX_STOP_LENGTH)]  # an empty one asks for nothing
Stop = Annotated[
    Annotated[StopString, Tag("one")]
    | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS), Tag("many")],
    Discriminator(one_or_many),
]


# By token ids, as text: JSON has no other names.
LogitBias = Annotated[
    dict[
        Annotated[str, Field(pattern="^[0-9]{1,9}$")],
        Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)],
    ],
    Field(max_length=MAX_BIASED_TOKENS),
]


def parameter_field(parameter: Parameter, **other: Any) -> Any:
    """A field with the limits, the default and the help of one of the engine's parameters.

    `other` are arguments of pydantic's `Field` that hold in place of these.
    """
    arguments: dict[str, Any] = {"default": parameter.default, "description": parameter.help}
    if (limits := parameter.limits) is not None:
        arguments |= {"gt" if limits.above_low else "ge": limits.low, "le": limits.high}
    return Field(**{**arguments, **other})


def _prompt_form(value: Any) -> str:
    """The form that the first item of a list has: all items must have the same."""
    if not isinstance(value, list | tuple):
        return "one text"
    first = value[0] if value else ""
    if isinstance(first, list | tuple):
        return "token lists"
    return "tokens" if isinstance(first, int | float) else "texts"


TokenIds = Annotated[
    list[Annotated[int, Field(ge=0, le=2**31 - 1)]],
    Field(min_length=1, max_length=MAX_PROMPT_TOKENS, fail_fast=True),
]
Prompt = str | list[int]
# As in OpenAI's completions and embeddings: text or token ids, or a list of either.
OneOrManyPrompts = Annotated[
    Annotated[Item, Tag("one text")]
    | Annotated[list[Item], Field(min_length=1, max_length=MAX_PROMPTS), Tag("texts")]
    | Annotated[TokenIds, Tag("tokens")]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS), Tag("token lists")],
    Discriminator(_prompt_form),
]
TextOrTokens = Annotated[
    Annotated[str, Tag("one")] | Annotated[TokenIds, Tag("many")], Discriminator(one_or_many)
]


def _number_where_digits(value: Any) -> Any:
    return int(value) if isinstance(value, str) and VERSION_NUMBER.fullmatch(value) else value


def _number_or_alias(value: Any) -> str:
    return "number" if isinstance(value, int) else "alias"


# Not every database keeps a U+0000, and records name the model as it was asked for.
ModelName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
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
    deadline_ms: int | None = parameter_field(PARAMETERS["deadline_ms"])

    @property
    def cost(self) -> int:
        """An estimate of the tokens that the task takes, at least 1: the unit of its caller's share."""
        return 1


class ModelParameters(TaskParameters):
    """What every task type takes that asks a model."""

    version: VersionName | None = Field(default=None, description="Version number or alias of the model.")
    priority: int = parameter_field(PARAMETERS["priority"])
    special_tokens: bool = parameter_field(PARAMETERS["special_tokens"])

    @property
    def cost(self) -> int:
        return 1 + _num_characters(self.model_dump(exclude_unset=True)) // CHARACTERS_PER_TOKEN


def _num_characters(value: Any) -> int:
    """The characters of all texts in `value`; a number in a list is a token id."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_num_characters, value.values()))
    if not isinstance(value, list):
        return 0
    return sum(CHARACTERS_PER_TOKEN if isinstance(item, int) else _num_characters(item) for item in value)


VariantName = Literal["fp32", "fp16", "int8", "int4"]  # as `Variant`; a test holds them equal


class Answer(BaseModel):
    """The deployment that answered; every answer has these fields."""

    model: str
    version: int
    precision: VariantName


class AppliedCalibration(BaseModel):
    """What the scores were corrected by."""

    temperature: float = Field(description="The logits of the labels were divided by it.")
    threshold: float | None = Field(description="An answer whose highest score is less abstains.")


class LabelAnswer(Answer):
    """An answer with labels."""

    calibration: AppliedCalibration | None = Field(
        default=None, description="Of the version; null: the scores are as the model gives them."
    )


def origin(target: Target) -> dict[str, Any]:
    """The fields of `Answer` for a deployment."""
    return {"model": target.model, "version": target.version, "precision": target.precision.value}


def as_list(value: Item | list[Item]) -> list[Item]:
    return value if isinstance(value, list) else [value]


def is_many(value: object) -> bool:
    """Whether it is a list of texts or prompts. A list of token ids is one prompt."""
    return isinstance(value, list) and not isinstance(value[0], int)


def as_prompts(value: Prompt | list[str] | list[list[int]]) -> list[Prompt]:
    return cast("list[Prompt]", value if is_many(value) else [value])
