"""What a handler is, and how the handlers reach the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel

from api.back.cluster.manager import ClusterManager
from api.back.cluster.records import HeadAnswer, Target
from api.errors import FieldError, InvalidInput, ServerFault
from api.middle.concurrency import map_bounded
from api.middle.job import Job
from api.middle.metrics import Metrics
from api.middle.schemas.base import TaskParameters
from runtime.contract import MAX_HEAD_BATCH, MAX_HEAD_CHARACTERS, LmTensors, Operation

Parameters = TypeVar("Parameters", bound=TaskParameters)
Result = TypeVar("Result", bound=BaseModel)

TEXTS = (LmTensors.TEXT_INPUT, "prompt", "request")


class Lane(str, Enum):
    """Asynchronous tasks wait in lanes, each with workers of its own: no lane holds up another."""

    MODELS = "models"  # asks model servers
    CONVERSIONS = "conversions"  # takes all cores, much memory and minutes


class Handler(ABC, Generic[Parameters, Result]):
    """One task type. `run` may emit on the job; it is cancelled when caller or deadline end the task."""

    task_type: ClassVar[str]
    lane: ClassVar[Lane] = Lane.MODELS
    parameters: type[Parameters]
    answer: type[Result]

    @abstractmethod
    async def run(self, parameters: Parameters, job: Job) -> Result:
        """Do the task. Raises the family of api/errors.py."""


class ModelHandler(Handler[Parameters, Result]):
    """A handler that asks model servers; `fan_out` bounds how many items of one task run at once."""

    def __init__(self, cluster: ClusterManager, metrics: Metrics, fan_out: int) -> None:
        self.cluster = cluster
        self.metrics = metrics
        self.fan_out = fan_out

    async def ask(
        self,
        target: Target,
        text: str,
        parameters: Mapping[str, Any],
        operation: Operation,
        job: Job,
        *,
        field: str,
    ) -> dict[str, Any]:
        """One request with one response: its decoded `details`. `field` is where the caller gave `text`."""
        sent = for_the_queue(parameters, job)
        replies = self.cluster.generate(target, text=text, parameters=sent, operation=operation, stream=False)
        with blame(field):
            async with aclosing(replies):
                async for details in replies:
                    self.metrics.count_tokens(target.model, details.get("usage"))
                    return details
        raise ServerFault(f"the model server ended the request for {target.model} without an answer")

    async def ask_head(
        self,
        target: Target,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        *,
        paths: Mapping[str, Callable[[int], str]],
    ) -> list[HeadAnswer]:
        """One answer of a trained head for each text, or pair; `paths` as in `blame_rows`."""

        async def some(rows: slice) -> list[HeadAnswer]:
            pairs = None if text_pairs is None else text_pairs[rows]
            with blame_rows(rows.start, paths):
                return await self.cluster.classify(target, texts[rows], pairs)

        sizes = [len(text) for text in texts]
        if text_pairs is not None:
            sizes = [size + len(pair) for size, pair in zip(sizes, text_pairs, strict=True)]
        chunks = await map_bounded(some, head_chunks(sizes), self.fan_out)
        return [answer for chunk in chunks for answer in chunk]


def head_chunks(sizes: Sequence[int]) -> list[slice]:
    """Which texts, of so many characters, go to a head in one request: neighbours, within its two limits.

    A text beyond the limit of characters goes alone.
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


def for_the_queue(parameters: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """The parameters of a request, with what decides over its turn: caller, priority, time that is left."""
    sent = {**parameters, "caller": job.account}
    if job.priority:
        sent["priority"] = job.priority
    if (remaining := job.remaining_ms()) is not None:
        sent["deadline_ms"] = remaining
    return sent


@contextmanager
def blame(field: str, names: Collection[str] = TEXTS) -> Iterator[None]:
    """Where the engine finds fault with one of its `names`, name the caller's field in its place."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(
            [FieldError(field if item.field in names else item.field, item.message) for item in error.errors]
        ) from None


@contextmanager
def blame_rows(first: int, paths: Mapping[str, Callable[[int], str]]) -> Iterator[None]:
    """As `blame`, for a request of many texts: `paths` are the caller's, by tensor, of a text's number.

    `first` is the number of the request's first text; which of its rows is at fault, HeadTensors says how.
    """

    def path(field: str) -> str:
        name, _, row = field.partition(".")
        return paths[name](first + int(row or 0)) if name in paths else field

    try:
        yield
    except InvalidInput as error:
        raise InvalidInput([FieldError(path(item.field), item.message) for item in error.errors]) from None


def item_field(name: str, whole: object, number: int) -> str:
    """The path of one text: `input`, or `input.3` where the caller gave a list."""
    return f"{name}.{number}" if isinstance(whole, list) else name
