"""Handler `score`: log-probabilities of continuations, of any number of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

from api.back.cluster.records import Target
from api.middle.handlers.base import ModelHandler
from api.middle.job import Job
from api.middle.schemas.base import origin
from api.middle.schemas.labels import ContinuationScore, ScoreAnswer, ScoreParameters
from runtime.contract import Kind
from runtime.messages import Score, Scored, Usage


class ScoreHandler(ModelHandler[ScoreParameters, ScoreAnswer]):
    task_type = "score"
    parameters = ScoreParameters
    answer = ScoreAnswer

    async def run(self, parameters: ScoreParameters, job: Job) -> ScoreAnswer:
        target = self.cluster.choose(parameters.model, parameters.version, Kind.LM)
        found = await self._score(target, parameters.prompt, parameters, job, "prompt")
        usages = [found.usage]
        neutral: Sequence[Score | None] = [None] * len(found.scores)
        if parameters.normalize == "pmi":
            reply = await self._score(target, parameters.pmi_prompt, parameters, job, "pmi_prompt")
            usages.append(reply.usage)
            neutral = reply.scores
        values = [
            normalized(score, parameters.normalize, before)
            for score, before in zip(found.scores, neutral, strict=True)
        ]
        shares = softmax(values)
        return ScoreAnswer(
            **origin(target),
            normalize=parameters.normalize,
            scores=[
                _score_of(text, score, value, share, parameters.tokens)
                for text, score, value, share in zip(
                    parameters.continuations, found.scores, values, shares, strict=True
                )
            ],
            best=max(range(len(values)), key=values.__getitem__),
            usage=Usage.total(usages),
        )

    async def _score(
        self, target: Target, prompt: str, parameters: ScoreParameters, job: Job, field: str
    ) -> Scored:
        sent = {"continuations": parameters.continuations}
        return await self.ask(target, prompt, sent, Scored, job, field=field)


def normalized(score: Score, normalize: str, neutral: Score | None) -> float:
    """A log-probability after `normalize`; `neutral` is the score after the neutral prompt, for `pmi`."""
    if normalize == "token":
        return score.logprob / max(1, score.num_tokens)
    if normalize == "byte":
        return score.logprob / max(1, score.num_bytes)
    return score.logprob - neutral.logprob if neutral else score.logprob


def softmax(values: Sequence[float]) -> list[float]:
    """Probabilities that are proportional to exp(value)."""
    highest = max(values)
    weights = [math.exp(value - highest) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]


def _score_of(text: str, score: Score, value: float, share: float, with_tokens: bool) -> ContinuationScore:
    return ContinuationScore(
        continuation=text,
        logprob=score.logprob,
        score=value,
        probability=share,
        num_tokens=score.num_tokens,
        num_bytes=score.num_bytes,
        tokens=score.tokens if with_tokens else None,
    )
