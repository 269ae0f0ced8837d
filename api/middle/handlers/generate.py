"""Handlers `generate`, `next` and `embed`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from api.back.cluster.records import Target
from api.errors import ServerFault
from api.middle.concurrency import map_bounded
from api.middle.handlers.base import ModelHandler, blame, for_the_queue, item_field
from api.middle.job import Job
from api.middle.schemas.base import Usage, as_list, origin
from api.middle.schemas.generate import (
    Candidate,
    Choice,
    EmbedAnswer,
    EmbedParameters,
    GenerateAnswer,
    GenerateParameters,
    NextAnswer,
    NextParameters,
    Timings,
)
from runtime.contract import Kind, Operation

SAMPLING = (
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "stop",
    "seed",
    "n",
    "logprobs",
    "echo",
    "ignore_eos",
)


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

        async def one(item: tuple[int, str]) -> list[dict[str, Any]]:
            number, prompt = item
            kept = []
            sent = _sampling(parameters, job)
            replies = self.cluster.generate(
                target, text=prompt, parameters=sent, operation=Operation.GENERATE, stream=parameters.stream
            )
            with blame(item_field("prompt", parameters.prompt, number)):
                async with aclosing(replies):
                    async for details in replies:
                        for choice in details["choices"]:
                            choice["index"] += number * parameters.n
                        if parameters.stream and details["choices"]:
                            clock.tick()
                            job.emit("output", {**head, "choices": details["choices"], "usage": None})
                        kept.append(details)
            if not kept or kept[-1].get("usage") is None:
                raise ServerFault(f"the model server ended the request for {target.model} before its end")
            self.metrics.count_tokens(target.model, kept[-1]["usage"])
            return kept

        prompts = list(enumerate(as_list(parameters.prompt)))
        replies = [reply for kept in await map_bounded(one, prompts, self.fan_out) for reply in kept]
        told = parameters.stream and not job.record.asynchronous
        return GenerateAnswer(
            **head,
            choices=[] if told else merged(replies),
            usage=Usage.total([reply["usage"] for reply in replies if reply["usage"]]),
            timings=_longest([reply.get("timings") for reply in replies]),
        )


def merged(replies: Sequence[dict[str, Any]]) -> list[Choice]:
    """The choices of all replies, the pieces of each put together."""
    whole: dict[int, dict[str, Any]] = {}
    for choice in (choice for reply in replies for choice in reply["choices"]):
        before = whole.setdefault(choice["index"], {**choice, "text": "", "token_ids": [], "logprobs": None})
        before["text"] += choice["text"]
        before["token_ids"] += choice.get("token_ids") or []
        if choice.get("logprobs") is not None:
            before["logprobs"] = [*(before["logprobs"] or []), *choice["logprobs"]]
        before["finish_reason"] = choice.get("finish_reason") or before["finish_reason"]
    return [Choice.model_validate(whole[index]) for index in sorted(whole)]


class _StreamClock:
    """Observes the times to the first text and between texts of one streamed task."""

    def __init__(self, handler: GenerateHandler, target: Target, job: Job) -> None:
        self._first = handler.metrics.first_token.labels(target.model)
        self._between = handler.metrics.inter_token.labels(target.model)
        self._last = job.arrived
        self._begun = False

    def tick(self) -> None:
        now = time.perf_counter()
        (self._between if self._begun else self._first).observe(now - self._last)
        self._last, self._begun = now, True


def _sampling(parameters: GenerateParameters, job: Job) -> dict[str, Any]:
    """What the engine needs of the parameters; unset ones take its defaults, which the schema repeats."""
    given = {name: getattr(parameters, name) for name in SAMPLING}
    return for_the_queue({name: value for name, value in given.items() if value is not None}, job)


def _longest(timings: Sequence[dict[str, float] | None]) -> Timings | None:
    given = [item for item in timings if item]
    if not given:
        return None
    return Timings(**{name: max(item.get(name, 0.0) for item in given) for name in Timings.model_fields})


class NextHandler(ModelHandler[NextParameters, NextAnswer]):
    task_type = "next"
    parameters = NextParameters
    answer = NextAnswer

    async def run(self, parameters: NextParameters, job: Job) -> NextAnswer:
        target = self.cluster.choose(parameters.model, parameters.version, Kind.LM)
        details = await self.ask(
            target, parameters.prompt, {"top_k": parameters.top_k}, Operation.NEXT, job, field="prompt"
        )
        return NextAnswer(
            **origin(target),
            candidates=[Candidate.model_validate(item) for item in details["candidates"]],
            usage=Usage.total([details.get("usage") or {}]),
        )


class EmbedHandler(ModelHandler[EmbedParameters, EmbedAnswer]):
    task_type = "embed"
    parameters = EmbedParameters
    answer = EmbedAnswer

    async def run(self, parameters: EmbedParameters, job: Job) -> EmbedAnswer:
        target = self.cluster.choose(parameters.model, parameters.version, Kind.LM)

        async def one(item: tuple[int, str]) -> dict[str, Any]:
            number, text = item
            field = item_field("input", parameters.input, number)
            return await self.ask(target, text, {}, Operation.EMBED, job, field=field)

        replies = await map_bounded(one, list(enumerate(as_list(parameters.input))), self.fan_out)
        return EmbedAnswer(
            **origin(target),
            embeddings=[reply["embedding"] for reply in replies],
            usage=Usage.total([reply.get("usage") or {} for reply in replies]),
        )
