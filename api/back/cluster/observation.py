"""What a request to a model with a canary adds to the canary's figures, and the copy of it for the canary."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from api.back.cluster.canary import Essence, essence, labels, service_seconds
from api.back.cluster.deployment import Deployment
from api.back.cluster.records import HeadAnswer, ModelVersion
from api.back.cluster.shadow import CALLER, Copy, Judge, Send, Shadows
from api.back.cluster.triton_client import TritonClient
from api.errors import ServerFault, Unavailable
from runtime.commands import Submit
from runtime.messages import Answer
from runtime.parameters import LEAST_URGENT

FAULTS = (ServerFault, Unavailable)  # of the server; a request that is wrong, or expires, is none


class Observation:
    """Of one request to `deployment`, from its making on."""

    def __init__(
        self, deployment: Deployment, canaries: Sequence[Deployment], shadows: Shadows, judge: Judge
    ) -> None:
        self._deployment = deployment
        self._canaries = canaries
        self._shadows = shadows
        self._judge = judge
        self._begin = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._begin

    def failed(self) -> None:
        for item in self._concerned():
            outcomes = item.watch.own if item is self._deployment else item.watch.others  # type: ignore[union-attr]
            outcomes.failed()
            self._judge(item)

    def succeeded(self, seconds: float, send: Send, expected: Callable[[], Essence | None]) -> None:
        """`send` sends a copy; `expected` is what its answer should have in common with this one."""
        for item in self._concerned():
            watch = item.watch
            assert watch is not None
            if item is self._deployment:
                watch.own.succeeded(seconds)
            else:
                watch.others.succeeded(seconds)
                if watch.takes_copy():
                    self._shadows.offer(Copy(item, send, expected()))
            self._judge(item)

    def _concerned(self) -> list[Deployment]:
        """A canary's own requests change its own figures alone; one may have been rolled back meanwhile."""
        if self._deployment in self._canaries:
            return [self._deployment] if self._deployment.watch is not None else []
        return [item for item in self._canaries if item.watch is not None]


def canaries_of(deployed: Iterable[Deployment], deployment: Deployment) -> list[Deployment]:
    """Those of the same model and kind; `deployment` may be one of them."""
    model, kind = deployment.record.model, deployment.target.kind
    return [
        item
        for item in deployed
        if item.watch is not None and item.record.model == model and item.target.kind is kind
    ]


async def observed(
    answers: AsyncGenerator[Answer, None], request: Submit, observation: Observation
) -> AsyncGenerator[Answer, None]:
    """The same answers. One that its caller leaves counts for nothing."""
    pieces: list[Answer] = []
    try:
        async with aclosing(answers):
            async for piece in answers:
                pieces.append(piece)
                yield piece
    except FAULTS:
        observation.failed()
        raise

    async def send(client: TritonClient, version: ModelVersion) -> tuple[Essence | None, float]:
        begin = time.monotonic()
        found = [piece async for piece in _copied(client, version, request)]
        return essence(found, request.parameters), service_seconds(time.monotonic() - begin, found)

    seconds = service_seconds(observation.elapsed, pieces)
    observation.succeeded(seconds, send, lambda: essence(pieces, request.parameters))


def _copied(client: TritonClient, version: ModelVersion, request: Submit) -> AsyncGenerator[Answer, None]:
    parameters: dict[str, Any] = {**request.parameters, "priority": LEAST_URGENT, "caller": CALLER}
    parameters.pop("deadline_ms", None)
    return client.generate(
        version, prompt=request.prompt, parameters=parameters, operation=request.operation, stream=False
    )


def heads_again(texts: Sequence[str], text_pairs: Sequence[str] | None) -> Send:
    """Sends a copy of a request to a model with a trained head."""

    async def send(client: TritonClient, version: ModelVersion) -> tuple[Essence | None, float]:
        begin = time.monotonic()
        found: list[HeadAnswer] = await client.classify(version, texts, text_pairs)
        return labels(found), time.monotonic() - begin

    return send
