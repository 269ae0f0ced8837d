"""What a task can be asked for beside its text, by the API's names; the API has the defaults."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Version = int | str


class TaskParameters(TypedDict, total=False):
    """Of every task that asks a model."""

    model: str | None
    version: Version | None
    deadline_ms: int | None
    priority: int
    special_tokens: bool


class GenerateParameters(TaskParameters, total=False):
    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    stop: str | list[str] | None
    seed: int | None
    n: int
    best_of: int | None
    min_tokens: int
    clamp_max_tokens: bool
    logit_bias: dict[str, float] | None
    logprobs: int | None
    echo: bool
    ignore_eos: bool
    response_format: dict[str, Any] | None
    structured_outputs: dict[str, Any] | None
    guided_json: dict[str, Any] | str | None
    guided_regex: str | None
    guided_choice: list[str] | None
    guided_grammar: str | None
    receipt: bool


class ClassifyParameters(TaskParameters, total=False):
    labels: list[str] | None
    multi_label: bool
    template: str
    raw_scores: bool


class InferParameters(TaskParameters, total=False):
    raw_scores: bool


class NluParameters(TaskParameters, total=False):
    labels: list[str] | None
    raw_scores: bool


class NextParameters(TaskParameters, total=False):
    top_k: int


class ScoreParameters(TaskParameters, total=False):
    normalize: Literal["none", "token", "byte", "pmi"]
    pmi_prompt: str
    tokens: bool


class DeployRequest(TypedDict, total=False):
    version: Version
    precision: str | None
    replicas: int
    traffic_weight: int
    canary: dict[str, Any] | None
    autoscale: dict[str, int] | None
    force: bool
