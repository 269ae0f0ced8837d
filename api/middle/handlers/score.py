"""Handler `score`: log-probabilities of continuations, of any number of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from api.back.cluster.records import Target
from api.middle.handlers.base import ModelHandler
from api.middle.job import Job
from api.middle.schemas.base import Usage, origin
from api.middle.schemas.labels import ContinuationScore, ScoreAnswer, ScoredToken, ScoreParameters
from runtime.contract import Kind, Operation


class ScoreHandler(ModelHandler[ScoreParameters, ScoreAnswer]):
    task_type = "score"
    parameters = ScoreParameters
    answer = ScoreAnswer

    async def run(self, parameters: ScoreParameters, job: Job) -> ScoreAnswer:
        target = self.cluster.choose(parameters.model, parameters.version, Kind.LM)
        details = await self._score(target, parameters.prompt, parameters, job, "prompt")
        usages = [details.get("usage") or {}]
        neutral = None
        if parameters.normalize == "pmi":
            reply = await self._score(target, parameters.pmi_prompt, parameters, job, "pmi_prompt")
            usages.append(reply.get("usage") or {})
            neutral = reply["scores"]
        values = [
            normalized(score, parameters.normalize, neutral[number] if neutral else None)
            for number, score in enumerate(details["scores"])
        ]
        shares = softmax(values)
        return ScoreAnswer(
            **origin(target),
            normalize=parameters.normalize,
            scores=[
                _score_of(text, score, value, share, parameters.tokens)
                for text, score, value, share in zip(
                    parameters.continuations, details["scores"], values, shares, strict=True
                )
            ],
            best=max(range(len(values)), key=values.__getitem__),
            usage=Usage.total(usages),
        )

    async def _score(
        self, target: Target, prompt: str, parameters: ScoreParameters, job: Job, field: str
    ) -> dict[str, Any]:
        sent = {"continuations": parameters.continuations}
        return await self.ask(target, prompt, sent, Operation.SCORE, job, field=field)


def normalized(score: dict[str, Any], normalize: str, neutral: dict[str, Any] | None) -> float:
    """A log-probability after `normalize`; `neutral` is the score after the neutral prompt, for `pmi`."""
    value: float = score["logprob"]
    if normalize == "token":
        return value / max(1, int(score["num_tokens"]))
    if normalize == "byte":
        return value / max(1, int(score["num_bytes"]))
    return value - float(neutral["logprob"]) if neutral else value


def softmax(values: Sequence[float]) -> list[float]:
    """Probabilities in the proportion of exp(value)."""
    highest = max(values)
    weights = [math.exp(value - highest) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]


def _score_of(
    text: str, score: dict[str, Any], value: float, share: float, with_tokens: bool
) -> ContinuationScore:
    return ContinuationScore(
        continuation=text,
        logprob=score["logprob"],
        score=value,
        probability=share,
        num_tokens=score["num_tokens"],
        num_bytes=score["num_bytes"],
        tokens=[ScoredToken.model_validate(token) for token in score["tokens"]] if with_tokens else None,
    )
