"""Handlers `classify`, `infer` and `nlu`: by a trained head, or zero-shot on a language model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from api.back.cluster.records import HeadAnswer, Target
from api.errors import InvalidInput
from api.middle.handlers.base import item_field, map_bounded
from api.middle.handlers.zero_shot import Question, ZeroShotHandler, ranked
from api.middle.job import Job
from api.middle.schemas.base import AppliedCalibration, as_list, origin
from api.middle.schemas.labels import (
    INTENT_TEMPLATE,
    ClassifyAnswer,
    ClassifyParameters,
    ClassifyResult,
    InferAnswer,
    InferParameters,
    InferResult,
    LabelScore,
    NluAnswer,
    NluParameters,
    NluResult,
    TextPair,
)
from runtime.calibration import Calibration
from runtime.contract import HeadTensors, Kind

ENTAILMENT = "entailment"
# What the language model is asked, after Brown et al. 2020, appendix G ("ANLI"), and what its answers mean.
INFER_TEMPLATE = "{premise}\nQuestion: {hypothesis} True, False, or Neither?\nAnswer: "
INFER_WORDS = {"True": ENTAILMENT, "False": "contradiction", "Neither": "neutral"}


def judges_pairs(target: Target) -> bool:
    """Its labels are those of natural language inference."""
    return ENTAILMENT in (label.lower() for label in target.labels)


def check_labels(target: Target, labels: list[str] | None) -> None:
    """Labels are for models without a trained head, which need them. Raises InvalidInput."""
    if target.kind is Kind.LM and labels is None:
        message = f"model {target.model} is a language model without trained labels; give at least 2"
        raise InvalidInput.of("labels", message)
    if target.kind is not Kind.LM and labels is not None:
        known = ", ".join(target.labels[:20])
        message = f"model {target.model} has its own ({known}); leave labels out, or name a language model"
        raise InvalidInput.of("labels", message)


def pair_field(parameters: InferParameters, name: str, number: int) -> str:
    """The path of a premise or hypothesis: `premise`, or `pairs.3.premise` where the caller gave a list."""
    return name if parameters.pairs is None else f"pairs.{number}.{name}"


def abstains(calibration: Calibration | None, scores: Sequence[LabelScore]) -> bool:
    """Whether the highest score, which comes first, is less than the threshold."""
    if calibration is None or calibration.threshold is None or not scores:
        return False
    return scores[0].score < calibration.threshold


def applied(calibration: Calibration | None) -> AppliedCalibration | None:
    if calibration is None:
        return None
    return AppliedCalibration(temperature=calibration.temperature, threshold=calibration.threshold)


class ClassifyHandler(ZeroShotHandler[ClassifyParameters, ClassifyAnswer]):
    task_type = "classify"
    parameters = ClassifyParameters
    answer = ClassifyAnswer

    async def run(self, parameters: ClassifyParameters, job: Job) -> ClassifyAnswer:
        target = self._choose(parameters)
        check_labels(target, parameters.labels)
        calibration = self.calibration(target, raw=parameters.raw_scores)
        if parameters.labels is None:
            results = await self._by_head(target, parameters, calibration, job)
        else:
            results = await self._zero_shot(target, parameters, parameters.labels, job)
        return ClassifyAnswer(**origin(target), results=results, calibration=applied(calibration))

    async def _by_head(
        self, target: Target, parameters: ClassifyParameters, calibration: Calibration | None, job: Job
    ) -> list[ClassifyResult]:
        paths = {HeadTensors.TEXT: partial(item_field, "input", parameters.input)}
        texts = as_list(parameters.input)
        results = []
        for head in await self.ask_head(target, texts, paths=paths, calibration=calibration, job=job):
            scores = ranked(target.labels, head.scores)
            results.append(
                ClassifyResult(
                    label=head.label, scores=scores, abstained=abstains(calibration, scores), method="head"
                )
            )
        return results

    async def _zero_shot(
        self, target: Target, parameters: ClassifyParameters, labels: list[str], job: Job
    ) -> list[ClassifyResult]:
        async def one(item: tuple[int, str]) -> ClassifyResult:
            number, text = item
            field = item_field("input", parameters.input, number)
            question = Question.of(parameters.template, text)
            scores = await self.score_labels(
                target, question, labels, job, field=field, multi_label=parameters.multi_label
            )
            return ClassifyResult(label=scores[0].label, scores=scores, method="zero-shot")

        return await map_bounded(one, list(enumerate(as_list(parameters.input))), self.fan_out)

    def _choose(self, parameters: ClassifyParameters) -> Target:
        if parameters.model is not None:
            return self.cluster.choose(
                parameters.model, parameters.version, Kind.CLASSIFIER, fallback=Kind.LM
            )
        if parameters.labels is not None:
            return self.cluster.choose(None, None, Kind.LM)
        return self.cluster.choose(None, None, Kind.CLASSIFIER, suits=lambda target: not judges_pairs(target))


class InferHandler(ZeroShotHandler[InferParameters, InferAnswer]):
    task_type = "infer"
    parameters = InferParameters
    answer = InferAnswer

    async def run(self, parameters: InferParameters, job: Job) -> InferAnswer:
        target = self.cluster.choose(
            parameters.model,
            parameters.version,
            Kind.CLASSIFIER,
            fallback=Kind.LM,
            suits=lambda target: target.kind is Kind.LM or judges_pairs(target),
        )
        if target.kind is Kind.CLASSIFIER and not judges_pairs(target):
            known = ", ".join(target.labels[:20])
            message = f"{target.model} has the labels {known}; infer needs entailment among them"
            raise InvalidInput.of("model", message)
        calibration = self.calibration(target, raw=parameters.raw_scores)
        if target.kind is Kind.CLASSIFIER:
            results = await self._by_head(target, parameters, calibration, job)
        else:
            results = await self._zero_shot(target, parameters, job)
        return InferAnswer(**origin(target), results=results, calibration=applied(calibration))

    async def _by_head(
        self, target: Target, parameters: InferParameters, calibration: Calibration | None, job: Job
    ) -> list[InferResult]:
        pairs, labels = parameters.texts(), [label.lower() for label in target.labels]
        heads = await self.ask_head(
            target,
            [pair.premise for pair in pairs],
            [pair.hypothesis for pair in pairs],
            paths={
                HeadTensors.TEXT: partial(pair_field, parameters, "premise"),
                HeadTensors.TEXT_PAIR: partial(pair_field, parameters, "hypothesis"),
            },
            calibration=calibration,
            job=job,
        )
        results = []
        for head in heads:
            scores, label = ranked(labels, head.scores), head.label.lower()
            abstained = abstains(calibration, scores)
            results.append(InferResult(label=label, scores=scores, abstained=abstained, method="head"))
        return results

    async def _zero_shot(self, target: Target, parameters: InferParameters, job: Job) -> list[InferResult]:
        before, between = INFER_TEMPLATE.split("{premise}")[1].split("{hypothesis}")

        async def one(item: tuple[int, TextPair]) -> InferResult:
            number, pair = item
            question = Question(pair.premise + before + pair.hypothesis + between, before + between)
            longer = "hypothesis" if len(pair.hypothesis) > len(pair.premise) else "premise"
            field = pair_field(parameters, longer, number)
            words = await self.score_labels(target, question, list(INFER_WORDS), job, field=field)
            scores = ranked([INFER_WORDS[word.label] for word in words], [word.score for word in words])
            return InferResult(label=scores[0].label, scores=scores, method="zero-shot")

        return await map_bounded(one, list(enumerate(parameters.texts())), self.fan_out)


class NluHandler(ZeroShotHandler[NluParameters, NluAnswer]):
    task_type = "nlu"
    parameters = NluParameters
    answer = NluAnswer

    async def run(self, parameters: NluParameters, job: Job) -> NluAnswer:
        kind = Kind.LM if parameters.model is None and parameters.labels is not None else Kind.NLU
        target = self.cluster.choose(
            parameters.model, parameters.version, kind, fallback=Kind.LM if parameters.model else None
        )
        check_labels(target, parameters.labels)
        calibration = self.calibration(target, raw=parameters.raw_scores)
        if parameters.labels is None:
            paths = {HeadTensors.TEXT: partial(item_field, "input", parameters.input)}
            texts = as_list(parameters.input)
            heads = await self.ask_head(target, texts, paths=paths, calibration=calibration, job=job)
            results = [self._understood(target, head, calibration) for head in heads]
        else:
            results = await self._zero_shot(target, parameters, parameters.labels, job)
        return NluAnswer(**origin(target), results=results, calibration=applied(calibration))

    @staticmethod
    def _understood(target: Target, head: HeadAnswer, calibration: Calibration | None) -> NluResult:
        intents = ranked(target.labels, head.scores)
        return NluResult(
            intent=intents[0] if intents else None,
            abstained=abstains(calibration, intents),
            intents=intents,
            slots=head.slots or [],
            method="head",
        )

    async def _zero_shot(
        self, target: Target, parameters: NluParameters, labels: list[str], job: Job
    ) -> list[NluResult]:
        async def one(item: tuple[int, str]) -> NluResult:
            number, text = item
            field = item_field("input", parameters.input, number)
            question = Question.of(INTENT_TEMPLATE, text)
            intents = await self.score_labels(target, question, labels, job, field=field)
            return NluResult(intent=intents[0], intents=intents, slots=[], method="zero-shot")

        return await map_bounded(one, list(enumerate(as_list(parameters.input))), self.fan_out)
