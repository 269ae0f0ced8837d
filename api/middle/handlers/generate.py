"""Handlers `generate`, `next`, `embed` and `tokenize`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager

from api.back.cluster.records import Target
from api.errors import ServerFault
from api.middle.handlers.base import (
    ModelHandler,
    error_field,
    expected,
    item_field,
    map_bounded,
    with_shared,
)
from api.middle.job import Job
from api.middle.schemas.base import Prompt, as_prompts, origin
from api.middle.schemas.generate import (
    AnswerReceipt,
    EmbedAnswer,
    EmbedParameters,
    GenerateAnswer,
    GenerateParameters,
    NextAnswer,
    NextParameters,
    TokenizeAnswer,
    TokenizeParameters,
)
from runtime.contract import Kind, Operation
from runtime.messages import Candidates, Choice, Embedded, Generated, Timings, Tokenized, Usage


class GenerateHandler(ModelHandler[GenerateParameters, GenerateAnswer]):
    """With `stream`, each piece of text is emitted as an `output` event shaped as the answer.

    Only an asynchronous task's answer then has the text too: its caller may not have followed the events.
    """

    task_type = "generate"
    parameters = GenerateParameters
    answer = GenerateAnswer

    async def run(self, parameters: GenerateParameters, job: Job) -> GenerateAnswer:
        target = self.cluster.choose(parameters.model, parameters.version, Kind.LM)
        head = {"id": job.id, **origin(target)}
        clock = _StreamClock(self, target, job)
        keeps_text = not parameters.stream or job.record.asynchronous

        async def one(item: tuple[int, Prompt]) -> Generated:
            number, prompt = item
            pieces: list[Generated] = []
            sent = with_shared(parameters.sampling(), job)
            if self.clamp_max_tokens:
                sent["clamp_max_tokens"] = True
            replies = self.cluster.generate(
                target, prompt=prompt, parameters=sent, operation=Operation.GENERATE, stream=parameters.stream
            )
            field = item_field("prompt", parameters.prompt, number)
            counted = self._counted_if_cut_short(target, job)
            with self.taken(parameters.num_sequences), error_field(field), counted as lengths:
                async with aclosing(replies):
                    async for reply in replies:
                        piece = renumbered(expected(reply, Generated), number * parameters.n)
                        lengths.append(sum(len(choice.token_ids) for choice in piece.choices))
                        if parameters.stream and piece.choices:
                            clock.tick()
                            choices = [choice.to_json() for choice in piece.choices]
                            job.emit("output", {**head, "choices": choices, "usage": None})
                        if not keeps_text:
                            pieces.clear()
                        pieces.append(piece)
            if not pieces or pieces[-1].usage is None:
                raise ServerFault(f"the model server ended the request for {target.model} before its end")
            self.count(target, pieces[-1].usage, job, pieces[-1].timings)
            return dataclasses.replace(pieces[-1], choices=joined(pieces) if keeps_text else [])

        prompts = list(enumerate(as_prompts(parameters.prompt)))
        answers = await map_bounded(one, prompts, self.fan_out)
        receipts = [answer.receipt for answer in answers if answer.receipt]
        receipt = AnswerReceipt(model=target.model, version=target.version, requests=receipts)
        return GenerateAnswer(
            **head,
            choices=[choice for answer in answers for choice in answer.choices],
            usage=Usage.total(answer.usage for answer in answers if answer.usage),
            timings=Timings.longest(answer.timings for answer in answers if answer.timings),
            receipt=receipt if receipts else None,
        )

    @contextmanager
    def _counted_if_cut_short(self, target: Target, job: Job) -> Iterator[list[int]]:
        """The tokens of each piece go into the list: a stream that its caller leaves reports no usage."""
        lengths: list[int] = []
        try:
            yield lengths
        except BaseException:
            job.count(target.model, Usage.of(0, sum(lengths)))
            raise


def renumbered(piece: Generated, first: int) -> Generated:
    """The piece with its choices counted from `first` on."""
    if first == 0:
        return piece
    choices = [dataclasses.replace(choice, index=first + choice.index) for choice in piece.choices]
    return dataclasses.replace(piece, choices=choices)


def joined(pieces: Sequence[Generated]) -> list[Choice]:
    """Each choice whole, in the order of their numbers."""
    parts: dict[int, list[Choice]] = {}
    for piece in pieces:
        for choice in piece.choices:
            parts.setdefault(choice.index, []).append(choice)
    return [_whole(parts[index]) for index in sorted(parts)]


def _whole(parts: Sequence[Choice]) -> Choice:
    logprobs = [part.logprobs for part in parts if part.logprobs is not None]
    reasons = [part.finish_reason for part in parts if part.finish_reason is not None]
    return Choice(
        parts[0].index,
        "".join(part.text for part in parts),
        [token for part in parts for token in part.token_ids],
        [token for listed in logprobs for token in listed] if logprobs else None,
        reasons[-1] if reasons else None,
    )


class _StreamClock:
    """Observes the times to the first text and between texts of one streamed task."""

    def __init__(self, handler: GenerateHandler, target: Target, job: Job) -> None:
        self._first = handler.metrics.first_token.labels(handler.task_type, target.model)
        self._between = handler.metrics.inter_token.labels(handler.task_type, target.model)
        self._last = job.arrived
        self._begun = False

    def tick(self) -> None:
        now = time.perf_counter()
        (self._between if self._begun else self._first).observe(now - self._last)
        self._last, self._begun = now, True


class NextHandler(ModelHandler[NextParameters, NextAnswer]):
    task_type = "next"
    parameters = NextParameters
    answer = NextAnswer

    async def run(self, parameters: NextParameters, job: Job) -> NextAnswer:
        target = self.cluster.choose(parameters.model, parameters.version, Kind.LM)
        sent = {"top_k": parameters.top_k}
        found = await self.ask(target, parameters.prompt, sent, Candidates, job, field="prompt")
        return NextAnswer(**origin(target), candidates=found.candidates, usage=found.usage)


class EmbedHandler(ModelHandler[EmbedParameters, EmbedAnswer]):
    task_type = "embed"
    parameters = EmbedParameters
    answer = EmbedAnswer

    async def run(self, parameters: EmbedParameters, job: Job) -> EmbedAnswer:
        target = self.cluster.choose(parameters.model, parameters.version, Kind.LM)

        async def one(item: tuple[int, Prompt]) -> Embedded:
            number, prompt = item
            field = item_field("input", parameters.input, number)
            return await self.ask(target, prompt, {}, Embedded, job, field=field)

        replies = await map_bounded(one, list(enumerate(as_prompts(parameters.input))), self.fan_out)
        return EmbedAnswer(
            **origin(target),
            embeddings=[reply.embedding for reply in replies],
            usage=Usage.total(reply.usage for reply in replies),
        )


class TokenizeHandler(ModelHandler[TokenizeParameters, TokenizeAnswer]):
    """The engine tokenizes, so that the tokens are those that it would run."""

    task_type = "tokenize"
    parameters = TokenizeParameters
    answer = TokenizeAnswer

    async def run(self, parameters: TokenizeParameters, job: Job) -> TokenizeAnswer:
        target = self.cluster.choose(parameters.model, parameters.version, Kind.LM)
        found = await self.ask(target, parameters.prompt, {}, Tokenized, job, field="prompt")
        return TokenizeAnswer(
            **origin(target),
            text=found.text,
            token_ids=found.token_ids,
            tokens=found.tokens,
            eos_token=found.eos_token,
            max_model_len=target.context_length,
        )
