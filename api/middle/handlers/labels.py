"""Handlers `classify`, `infer` and `nlu`: by a trained head, or zero-shot on a language model."""

from __future__ import annotations

from api.back.cluster.records import Target
from api.errors import InvalidInput
from api.middle.concurrency import map_bounded
from api.middle.handlers.base import blame, item_field
from api.middle.handlers.zero_shot import Question, ZeroShotHandler, ranked
from api.middle.job import Job
from api.middle.schemas.base import as_list, origin
from api.middle.schemas.labels import (
    INTENT_TEMPLATE,
    ClassifyAnswer,
    ClassifyParameters,
    ClassifyResult,
    InferAnswer,
    InferParameters,
    InferResult,
    NluAnswer,
    NluParameters,
    NluResult,
    Slot,
    TextPair,
)
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


class ClassifyHandler(ZeroShotHandler[ClassifyParameters, ClassifyAnswer]):
    task_type = "classify"
    parameters = ClassifyParameters
    answer = ClassifyAnswer

    async def run(self, parameters: ClassifyParameters, job: Job) -> ClassifyAnswer:
        target = self._choose(parameters)
        check_labels(target, parameters.labels)

        async def one(item: tuple[int, str]) -> ClassifyResult:
            number, text = item
            field = item_field("input", parameters.input, number)
            if parameters.labels is None:
                with blame(field):
                    head = await self.cluster.classify(target, text)
                return ClassifyResult(
                    label=head.label, scores=ranked(target.labels, head.scores), method="head"
                )
            question = Question.of(parameters.template, text)
            scores = await self.score_labels(
                target, question, parameters.labels, job, field=field, multi_label=parameters.multi_label
            )
            return ClassifyResult(label=scores[0].label, scores=scores, method="zero-shot")

        items = list(enumerate(as_list(parameters.input)))
        return ClassifyAnswer(**origin(target), results=await map_bounded(one, items, self.fan_out))

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

        async def one(item: tuple[int, TextPair]) -> InferResult:
            number, pair = item
            where = "" if parameters.pairs is None else f"pairs.{number}."
            return await self._judge(target, pair, job, f"{where}premise", f"{where}hypothesis")

        items = list(enumerate(parameters.texts()))
        return InferAnswer(**origin(target), results=await map_bounded(one, items, self.fan_out))

    async def _judge(
        self, target: Target, pair: TextPair, job: Job, premise_field: str, hypothesis_field: str
    ) -> InferResult:
        if target.kind is Kind.CLASSIFIER:
            with blame(premise_field), blame(hypothesis_field, [HeadTensors.TEXT_PAIR]):
                head = await self.cluster.classify(target, pair.premise, pair.hypothesis)
            labels = [label.lower() for label in target.labels]
            scores = ranked(labels, head.scores)
            return InferResult(label=head.label.lower(), scores=scores, method="head")
        before, between = INFER_TEMPLATE.split("{premise}")[1].split("{hypothesis}")
        question = Question(pair.premise + before + pair.hypothesis + between, before + between)
        longer = hypothesis_field if len(pair.hypothesis) > len(pair.premise) else premise_field
        words = await self.score_labels(target, question, list(INFER_WORDS), job, field=longer)
        scores = ranked([INFER_WORDS[word.label] for word in words], [word.score for word in words])
        return InferResult(label=scores[0].label, scores=scores, method="zero-shot")


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

        async def one(item: tuple[int, str]) -> NluResult:
            number, text = item
            return await self._understand(
                target, text, parameters, job, item_field("input", parameters.input, number)
            )

        items = list(enumerate(as_list(parameters.input)))
        return NluAnswer(**origin(target), results=await map_bounded(one, items, self.fan_out))

    async def _understand(
        self, target: Target, text: str, parameters: NluParameters, job: Job, field: str
    ) -> NluResult:
        if parameters.labels is not None:
            question = Question.of(INTENT_TEMPLATE, text)
            intents = await self.score_labels(target, question, parameters.labels, job, field=field)
            return NluResult(intent=intents[0], intents=intents, slots=[], method="zero-shot")
        with blame(field):
            head = await self.cluster.classify(target, text)
        intents = ranked(target.labels, head.scores)
        slots = [Slot.model_validate(slot) for slot in head.slots or []]
        return NluResult(intent=intents[0] if intents else None, intents=intents, slots=slots, method="head")
