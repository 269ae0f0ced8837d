"""What a handler is, and how the handlers reach the engine."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, contextmanager
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel

from api.back.cluster.manager import ClusterManager
from api.back.cluster.records import HeadAnswer, Target
from api.caller import Caller, Scope
from api.errors import FieldError, InvalidInput, ServerFault
from api.middle.job import Job
from api.middle.metrics import Metrics
from api.middle.schemas.base import TaskParameters, is_many
from runtime.calibration import Calibration
from runtime.contract import MAX_HEAD_BATCH, MAX_HEAD_CHARACTERS, LmTensors
from runtime.messages import Answer, Candidates, Embedded, Generated, Scored, Timings, Tokenized, Usage

Parameters = TypeVar("Parameters", bound=TaskParameters)
Result = TypeVar("Result", bound=BaseModel)
Message = TypeVar("Message", Generated, Scored, Candidates, Embedded, Tokenized)
Given = TypeVar("Given")
Made = TypeVar("Made")

Taken = Callable[[int], AbstractContextManager[None]]

PROMPTS = (LmTensors.TEXT_INPUT, LmTensors.PROMPT_TOKEN_IDS, "prompt", "request")


class Lane(str, Enum):
    """Asynchronous tasks wait in lanes. Each lane has its workers, so that none delays another."""

    MODELS = "models"  # asks model servers
    CONVERSIONS = "conversions"  # takes all cores and much memory for minutes
    TRAININGS = "trainings"  # likewise, for hours


class Handler(ABC, Generic[Parameters, Result]):
    """One task type. `run` may emit on the job; it is cancelled when caller or deadline end the task."""

    task_type: ClassVar[str]
    lane: ClassVar[Lane] = Lane.MODELS
    scope: ClassVar[Scope] = Scope.INFER  # that the caller of a task needs
    parameters: type[Parameters]
    answer: type[Result]

    async def check(self, parameters: Parameters, caller: Caller) -> None:
        """Refuse a task before it is accepted. Raises the family of api/errors.py."""

    @abstractmethod
    async def run(self, parameters: Parameters, job: Job) -> Result:
        """Do the task. Raises the family of api/errors.py."""


class ModelHandler(Handler[Parameters, Result]):
    """A handler that asks model servers; `fan_out` bounds how many items of one task run at once.

    `taken` is entered for the time of each request to a language model, with the number of its sequences.
    `clamp_max_tokens` is the setting of that name; a task may ask for the same.
    """

    def __init__(
        self,
        cluster: ClusterManager,
        metrics: Metrics,
        fan_out: int,
        taken: Taken,
        *,
        clamp_max_tokens: bool = False,
    ) -> None:
        self.cluster = cluster
        self.clamp_max_tokens = clamp_max_tokens
        self.metrics = metrics
        self.fan_out = fan_out
        self.taken = taken

    async def ask(
        self,
        target: Target,
        prompt: str | Sequence[int],
        parameters: Mapping[str, Any],
        answer: type[Message],
        job: Job,
        *,
        field: str,
    ) -> Message:
        """One request with one answer, of type `answer`. `field` is where the caller gave `prompt`."""
        sent = with_shared(parameters, job)
        replies = self.cluster.generate(
            target, prompt=prompt, parameters=sent, operation=answer.operation, stream=False
        )
        with self.taken(1), error_field(field):
            async with aclosing(replies):
                async for reply in replies:
                    found = expected(reply, answer)
                    if found.usage is not None:
                        self.count(target, found.usage, job)
                    return found
        raise ServerFault(f"the model server ended the request for {target.model} without an answer")

    def count(self, target: Target, usage: Usage, job: Job, timings: Timings | None = None) -> None:
        """What the engine reported for one request of the job, at its end."""
        self.metrics.count_request(target.model, usage, timings)
        job.count(target.model, usage)

    def calibration(self, target: Target, *, raw: bool) -> Calibration | None:
        """By which the target's scores are corrected; None for `raw` ones, and where it has none."""
        return None if raw else self.cluster.calibration(target)

    async def ask_head(
        self,
        target: Target,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        *,
        job: Job,
        paths: Mapping[str, Callable[[int], str]],
        calibration: Calibration | None,
    ) -> list[HeadAnswer]:
        """One answer of a trained head for each text, or pair; `paths` as in `error_rows`."""
        temperature = None if calibration is None or calibration.temperature == 1 else calibration.temperature

        async def some(rows: slice) -> list[HeadAnswer]:
            pairs = None if text_pairs is None else text_pairs[rows]
            with error_rows(rows.start, paths):
                return await self.cluster.classify(
                    target, texts[rows], pairs, temperature, special_tokens=job.special_tokens
                )

        sizes = [len(text) for text in texts]
        if text_pairs is not None:
            sizes = [size + len(pair) for size, pair in zip(sizes, text_pairs, strict=True)]
        job.count(target.model, Usage.of(0))
        chunks = await map_bounded(some, head_chunks(sizes), self.fan_out)
        return [answer for chunk in chunks for answer in chunk]


def expected(reply: Answer, answer: type[Message]) -> Message:
    """The reply as the type that its operation has. Raises ServerFault for another one, which is a defect."""
    if not isinstance(reply, answer):
        raise ServerFault(f"the model server sent {type(reply).__name__} in place of {answer.__name__}")
    return reply


def head_chunks(sizes: Sequence[int]) -> list[slice]:
    """The texts that go to a head in one request each: neighbours, within the limits of its requests.

    `sizes` are the characters of all texts. A text beyond the limit of characters goes alone.
    """
    found: list[slice] = []
    first = total = 0
    for place, size in enumerate(sizes):
        full = place - first == MAX_HEAD_BATCH or total + size > MAX_HEAD_CHARACTERS
        if full and place > first:
            found.append(slice(first, place))
            first, total = place, 0
        total += size
    if sizes:
        found.append(slice(first, len(sizes)))
    return found


def with_shared(parameters: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """The parameters of a request, with those that every operation has (SHARED_PARAMETERS)."""
    sent = {**parameters, "caller": job.caller}
    if job.priority:
        sent["priority"] = job.priority
    if (remaining := job.remaining_ms()) is not None:
        sent["deadline_ms"] = remaining
    if not job.special_tokens:
        sent["special_tokens"] = False
    return sent


@contextmanager
def error_field(field: str, names: Collection[str] = PROMPTS) -> Iterator[None]:
    """Within it, an error about one of the engine's `names` is raised as one about the caller's `field`.

    The engine may name a place in it, as in `prompt_token_ids.3`; the place is kept.
    """

    def path(found: str) -> str:
        name, dot, place = found.partition(".")
        return f"{field}{dot}{place}" if name in names else found

    try:
        yield
    except InvalidInput as error:
        raise type(error)([FieldError(path(item.field), item.message) for item in error.errors]) from None


@contextmanager
def error_rows(first: int, paths: Mapping[str, Callable[[int], str]]) -> Iterator[None]:
    """As `error_field`, for a request of many texts, whose errors name a row as `HeadTensors` says.

    `first` is the number of the request's first text. `paths` has for each tensor a function from the number
    of a text to the caller's field.
    """

    def path(field: str) -> str:
        name, _, row = field.partition(".")
        return paths[name](first + int(row or 0)) if name in paths else field

    try:
        yield
    except InvalidInput as error:
        raise type(error)([FieldError(path(item.field), item.message) for item in error.errors]) from None


def item_field(name: str, whole: object, number: int) -> str:
    """The path of one text: `input`, or `input.3` where the caller gave a list of them."""
    return f"{name}.{number}" if is_many(whole) else name


async def map_bounded(
    call: Callable[[Given], Awaitable[Made]], items: Sequence[Given], limit: int
) -> list[Made]:
    """Items of one task at the same time: `call` over all items, at most `limit` at once, answers in order.

    The first error cancels the rest, waits for them to end, and is raised.
    """
    if len(items) == 1:
        return [await call(items[0])]
    gate = asyncio.Semaphore(limit)

    async def one(item: Given) -> Made:
        async with gate:
            return await call(item)

    running = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
