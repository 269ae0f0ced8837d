"""Labels without a trained head: a language model scores each label after the text.

The score of a label is log P(label | text) - log P(label | no text), since labels that are likely anywhere
would win everywhere (domain-conditional PMI: Holtzman et al., "Surface Form Competition", 2021, section 3).
Probabilities are the softmax of the scores over the labels; with multi_label, the logistic of each score.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from api.back.cluster.records import Target
from api.middle.handlers.base import ModelHandler, Parameters, Result, error_field
from api.middle.handlers.score import softmax
from api.middle.job import Job
from api.middle.schemas.labels import LabelScore
from runtime.messages import Scored

CONTINUATIONS = "continuations"  # the engine's name for what it scores
KEPT_PRIORS = 256  # label sets whose scores without text are remembered, per handler


@dataclass(frozen=True, slots=True)
class Question:
    """A template split at the label: what comes before it, with and without the text; what comes after."""

    prompt: str
    neutral_prompt: str
    suffix: str = ""

    @classmethod
    def of(cls, template: str, text: str) -> Question:
        before, _, suffix = template.partition("{label}")
        return cls(before.replace("{text}", text), before.replace("{text}", ""), suffix)


class ZeroShotHandler(ModelHandler[Parameters, Result]):
    """A handler that can fall back on scoring labels."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self._priors: OrderedDict[tuple[str, str, tuple[str, ...], bool], list[float]] = OrderedDict()

    async def score_labels(
        self,
        target: Target,
        question: Question,
        labels: Sequence[str],
        job: Job,
        *,
        field: str,
        multi_label: bool = False,
    ) -> list[LabelScore]:
        """The labels with their probabilities, highest first."""
        continuations = tuple(label + question.suffix for label in labels)
        prior = await self._prior(target, question.neutral_prompt, continuations, job)
        posterior = await self._logprobs(target, question.prompt, continuations, job, (field, field))
        scores = [after - before for after, before in zip(posterior, prior, strict=True)]
        shares = [_logistic(score) for score in scores] if multi_label else softmax(scores)
        return ranked(labels, shares)

    async def _prior(
        self, target: Target, prompt: str, continuations: tuple[str, ...], job: Job
    ) -> list[float]:
        key = (target.deployment_id, prompt, continuations, job.special_tokens)
        if key not in self._priors:
            fields = ("template", "labels")
            self._priors[key] = await self._logprobs(target, prompt, continuations, job, fields)
            if len(self._priors) > KEPT_PRIORS:
                self._priors.popitem(last=False)
        else:
            self._priors.move_to_end(key)
        return self._priors[key]

    async def _logprobs(
        self,
        target: Target,
        prompt: str,
        continuations: tuple[str, ...],
        job: Job,
        fields: tuple[str, str],
    ) -> list[float]:
        """`fields` are the caller's, which errors about the prompt and the continuations name."""
        sent = {CONTINUATIONS: list(continuations)}
        with error_field(fields[1], [CONTINUATIONS]):
            found = await self.ask(target, prompt, sent, Scored, job, field=fields[0])
        return [score.logprob for score in found.scores]


def ranked(labels: Sequence[str], scores: Sequence[float]) -> list[LabelScore]:
    """Highest first; equal scores in the order of the labels."""
    pairs = sorted(zip(labels, scores, strict=True), key=itemgetter(1), reverse=True)
    return [LabelScore(label=label, score=score) for label, score in pairs]


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0
