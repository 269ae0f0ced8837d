"""The answers of an appliance, as its API sends them: dictionaries of JSON, with their types.

The reference of the API describes each field; a test compares these types with it.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

State = Literal["queued", "running", "done", "failed", "cancelled", "expired"]
Method = Literal["head", "zero-shot"]


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Timings(TypedDict):
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float


class Answer(TypedDict):
    """What every task's answer begins with."""

    model: str
    version: int
    precision: str


class ScoredToken(TypedDict):
    token_id: int
    text: str
    logprob: float


class TokenLogprob(TypedDict, total=False):
    token_id: int
    text: str
    logprob: float | None
    top: list[ScoredToken]
    text_offset: int


class Choice(TypedDict):
    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    finish_reason: Literal["stop", "length", "cancelled", "error"] | None


class ReceiptChoice(TypedDict):
    index: int
    token_ids: list[int]
    logprobs_sha256: str
    finish_reason: Literal["stop", "length", "cancelled", "error"] | None


class Receipt(TypedDict):
    release: str
    artifact: str
    variant: str
    kernels: str
    exact_on: Literal["any-processor", "same-processor", "not-promised"]
    prompt_token_ids: list[int]
    parameters: dict[str, Any]
    choices: list[ReceiptChoice]


class AnswerReceipt(TypedDict):
    model: str
    version: int
    requests: list[Receipt]


class GenerateAnswer(Answer, total=False):
    """Of a stream: one piece of it, whose choices have what is new; the last one has the receipt."""

    id: str
    choices: list[Choice]
    usage: Usage | None
    timings: Timings | None
    receipt: AnswerReceipt  # where it was asked for


class LabelScore(TypedDict):
    label: str
    score: float


class AppliedCalibration(TypedDict):
    temperature: float
    threshold: float | None


class ClassifyResult(TypedDict):
    label: str
    abstained: bool
    scores: list[LabelScore]
    method: Method


class ClassifyAnswer(Answer):
    calibration: AppliedCalibration | None
    results: list[ClassifyResult]


InferResult = ClassifyResult
InferAnswer = ClassifyAnswer


class Slot(TypedDict):
    name: str
    value: str
    start: int
    end: int
    score: float


class NluResult(TypedDict):
    intent: LabelScore | None
    abstained: bool
    intents: list[LabelScore]
    slots: list[Slot]
    method: Method


class NluAnswer(Answer):
    calibration: AppliedCalibration | None
    results: list[NluResult]


class Candidate(TypedDict):
    token_id: int
    text: str
    probability: float
    logprob: float


class NextAnswer(Answer):
    candidates: list[Candidate]
    usage: Usage


class ContinuationScore(TypedDict):
    continuation: str
    logprob: float
    score: float
    probability: float
    num_tokens: int
    num_bytes: int
    tokens: list[ScoredToken] | None


class ScoreAnswer(Answer):
    normalize: Literal["none", "token", "byte", "pmi"]
    scores: list[ContinuationScore]
    best: int
    usage: Usage


class EmbeddingsUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class Embedding(TypedDict):
    object: Literal["embedding"]
    index: int
    embedding: list[float]


class Embeddings(TypedDict):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class TaskView(TypedDict):
    """A task, asynchronous or not. `result` is the answer of its route, once it is done."""

    id: str
    object: Literal["task"]
    type: str
    state: State
    asynchronous: bool
    model: str | None
    caller: str
    key: str | None
    parameters: dict[str, Any]
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    attempts: int
    callback_url: str | None
    created: str
    started: str | None
    finished: str | None


class DeploymentView(TypedDict):
    id: str
    model: str
    version: int
    precision: str
    artifact: str
    precision_asked: str
    note: str | None
    state: Literal["loading", "ready", "unhealthy", "failed", "idle", "unloading"]
    replicas: int
    traffic_weight: int
    error: str | None
    capacity: dict[str, Any] | None
    autoscale: dict[str, Any] | None
    servers: dict[str, str]
    rollout: dict[str, Any] | None
    canary: dict[str, Any] | None
    events: list[dict[str, Any]]
    created: str


class ModelView(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Literal["lm", "classifier", "nlu"] | None
    description: str
    aliases: dict[str, int]
    versions: list[int]
    serving: list[str]
    deployments: list[DeploymentView]
