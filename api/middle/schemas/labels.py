"""Tasks `classify`, `infer` and `nlu`, with a trained head or zero-shot, and `score` below them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from api.middle.schemas.base import (
    MAX_ITEMS,
    Answer,
    LabelAnswer,
    Labels,
    Method,
    ModelParameters,
    Schema,
    Text,
    Texts,
)
from runtime.messages import ScoredToken, Slot, Usage

TOPIC_TEMPLATE = "{text}\nTopic: {label}"
INTENT_TEMPLATE = "{text}\nIntent: {label}"


def _check_template(value: str) -> str:
    for name in ("{text}", "{label}"):
        if value.count(name) != 1:
            raise ValueError(f"{name} must be in it once, and is {value.count(name)} times")
    if value.index("{text}") > value.index("{label}"):
        raise ValueError("{text} must come before {label}")
    return value


def _distinct(value: list[str]) -> list[str]:
    for position, label in enumerate(value):
        if label in value[:position]:
            raise ValueError(f"{label!r} is given twice")
    return value


_NO_MARK = r"((?!\{text\}|\{label\})[\s\S])*"
Template = Annotated[
    str,
    Field(
        max_length=2000,
        json_schema_extra={"pattern": rf"^{_NO_MARK}\{{text\}}{_NO_MARK}\{{label\}}{_NO_MARK}$"},
    ),
    AfterValidator(_check_template),
]
DistinctLabels = Annotated[Labels, Field(json_schema_extra={"uniqueItems": True}), AfterValidator(_distinct)]


RawScores = Annotated[
    bool,
    Field(description="Scores as the model gives them, without the version's calibration."),
]
Abstained = Annotated[bool, Field(description="The highest score is less than the version's threshold.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    label: str
    score: Annotated[float, Field(description="Probability, 0 to 1; of a regression head, the value itself.")]


Scores = Annotated[list[LabelScore], Field(description="Highest first.")]


class ClassifyParameters(ModelParameters):
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"labels": {"type": "array"}}, "required": ["labels"]},
                {
                    "properties": {
                        "multi_label": {"const": False},
                        "template": {"const": TOPIC_TEMPLATE},
                    }
                },
            ]
        }
    )

    input: Texts = Field(description="Text, or a list of them.")
    labels: DistinctLabels | None = Field(
        default=None,
        description="Zero-shot on a language model: the classes. Leave out for a model with a trained head.",
    )
    multi_label: bool = Field(
        default=False, description="Zero-shot: each label by itself; scores need not sum to 1."
    )
    template: Template = Field(
        default=TOPIC_TEMPLATE,
        description="Zero-shot: the text whose label is scored; has {text}, then {label}.",
    )
    raw_scores: RawScores = False

    @model_validator(mode="after")
    def _zero_shot_only(self) -> ClassifyParameters:
        if self.labels is None:
            for name in ("multi_label", "template"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name}: used only together with labels")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyResult:
    label: Annotated[str, Field(description="The likeliest.")]
    abstained: Abstained = False
    scores: Scores
    method: Method


class ClassifyAnswer(LabelAnswer):
    results: list[ClassifyResult] = Field(description="One per input, in order.")


class TextPair(Schema):
    premise: Text
    hypothesis: Text


class InferParameters(ModelParameters):
    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {
                    "properties": {
                        "premise": {"type": "string"},
                        "hypothesis": {"type": "string"},
                        "pairs": {"type": "null"},
                    },
                    "required": ["premise", "hypothesis"],
                },
                {
                    "properties": {
                        "premise": {"type": "null"},
                        "hypothesis": {"type": "null"},
                        "pairs": {"type": "array"},
                    },
                    "required": ["pairs"],
                },
            ]
        }
    )

    premise: Text | None = Field(default=None, description="What is known.")
    hypothesis: Text | None = Field(default=None, description="What is claimed.")
    pairs: list[TextPair] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_ITEMS,
        fail_fast=True,
        description="Several at once, instead of premise and hypothesis.",
    )
    raw_scores: RawScores = False

    @model_validator(mode="after")
    def _one_form(self) -> InferParameters:
        single = self.premise is not None or self.hypothesis is not None
        if self.pairs is not None and single:
            raise ValueError("pairs: give either pairs, or premise and hypothesis")
        if self.pairs is None:
            for name in ("premise", "hypothesis"):
                if getattr(self, name) is None:
                    raise ValueError(f"{name}: missing")
        return self

    def texts(self) -> list[TextPair]:
        if self.pairs is not None:
            return self.pairs
        return [TextPair(premise=self.premise or "", hypothesis=self.hypothesis or "")]


@dataclass(frozen=True, slots=True, kw_only=True)
class InferResult:
    label: Annotated[str, Field(description="entailment, neutral or contradiction.")]
    abstained: Abstained = False
    scores: Scores
    method: Method


class InferAnswer(LabelAnswer):
    results: list[InferResult] = Field(description="One per pair, in order.")


class NluParameters(ModelParameters):
    input: Texts = Field(description="Utterance, or a list of them.")
    labels: DistinctLabels | None = Field(
        default=None,
        description="Zero-shot on a language model: the intents. Leave out for a model with a trained head.",
    )
    raw_scores: RawScores = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NluResult:
    intent: Annotated[LabelScore | None, Field(description="Null where the model tags slots alone.")]
    abstained: Abstained = False
    intents: Scores
    slots: Annotated[list[Slot], Field(description="Empty with zero-shot.")]
    method: Method


class NluAnswer(LabelAnswer):
    results: list[NluResult] = Field(description="One per input, in order.")


class ScoreParameters(ModelParameters):
    prompt: str = Field(description="Text before the continuations; empty: the start of a text.")
    continuations: list[Text] = Field(
        min_length=1, max_length=MAX_ITEMS, description="Texts to score after it."
    )
    normalize: Literal["none", "token", "byte", "pmi"] = Field(
        default="none",
        description="none: log P(continuation | prompt). token, byte: divided by its tokens or UTF-8 bytes. "
        "pmi: less log P(continuation | pmi_prompt).",
    )
    pmi_prompt: str = Field(
        default="", description="The neutral prompt of `pmi`; empty: the start of a text."
    )
    tokens: bool = Field(default=False, description="Answer also with the log-probability of each token.")


class ContinuationScore(BaseModel):
    continuation: str
    logprob: float = Field(description="Natural logarithm of P(continuation | prompt).")
    score: float = Field(description="The log-probability after `normalize`.")
    probability: float = Field(description="Softmax of `score` over the continuations given.")
    num_tokens: int
    num_bytes: int
    tokens: list[ScoredToken] | None = None


class ScoreAnswer(Answer):
    normalize: Literal["none", "token", "byte", "pmi"]
    scores: list[ContinuationScore] = Field(description="In the order given.")
    best: int = Field(description="Index of the highest score.")
    usage: Usage
