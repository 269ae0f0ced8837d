"""Canaries at work: what requests add to their figures, copies of requests for them, and their rollback.

What is measured and judged stands in `canary`. Copies never delay a caller: the queue is short, what finds no
room in it is dropped, and the engine serves them after everything else. They are compared, and thrown away.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from api.back.cluster import router
from api.back.cluster.backoff import backoff_seconds
from api.back.cluster.canary import Essence, agreement, essence, labels, service_seconds
from api.back.cluster.deployment import Deployment
from api.back.cluster.records import HeadAnswer, ModelVersion, Report
from api.back.cluster.triton_client import TritonClient
from api.back.store.deployments import DeploymentStore
from api.back.store.records import DeploymentState
from api.errors import ApiError, NotFound, Overloaded, ServerFault, StoreUnavailable, Unavailable
from runtime.commands import Submit
from runtime.messages import Answer
from runtime.parameters import LEAST_URGENT

FAULTS = (ServerFault, Unavailable)  # of the server; a request that is wrong, or expires, is none
MAX_WAITING = 16  # copies
WORKERS = 2  # copies under way at once
COPY_SECONDS = 60.0  # that one may take
CALLER = "lmaas-shadow"  # as the engine's fair queue knows them
MAX_BACKOFF_SECONDS = 60.0  # between two tries to record a rollback

# Sends the copy; returns what its answer is compared by, and its seconds as `canary.service_seconds` counts.
Send = Callable[[TritonClient, ModelVersion], Awaitable[tuple[Essence | None, float]]]
Judge = Callable[[Deployment], None]

logger = logging.getLogger(__name__)


class Canaries:
    """`deployments` are those of the cluster, by id."""

    def __init__(
        self, deployments: Mapping[str, Deployment], records: DeploymentStore, report: Report
    ) -> None:
        self._deployments = deployments
        self._rollbacks = Rollbacks(deployments, records, report)
        self._shadows = Shadows(self._rollbacks.judge)

    def observe(self, deployment: Deployment) -> Observation | None:
        """One request to `deployment`, from now on. None where no canary is concerned."""
        canaries = canaries_of(self._deployments.values(), deployment)
        if not canaries:
            return None
        return Observation(deployment, canaries, self._shadows, self._rollbacks.judge)

    @property
    def rollbacks(self) -> Mapping[str, int]:
        """How many lost their traffic, by model."""
        return self._rollbacks.counts

    async def close(self) -> None:
        await self._shadows.close()
        await self._rollbacks.close()


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
    """Those of the same model and kind; `deployment` may be one of them.

    One that is being loaded has no copies and no figures yet.
    """
    model, kind = deployment.record.model, deployment.target.kind
    return [
        item
        for item in deployed
        if item.watch is not None
        and item.state is not DeploymentState.LOADING
        and item.record.model == model
        and item.target.kind is kind
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


def heads_again(texts: Sequence[str], text_pairs: Sequence[str] | None, special_tokens: bool) -> Send:
    """Sends a copy of a request to a model with a trained head."""

    async def send(client: TritonClient, version: ModelVersion) -> tuple[Essence | None, float]:
        begin = time.monotonic()
        found: list[HeadAnswer] = await client.classify(
            version, texts, text_pairs, special_tokens=special_tokens
        )
        return labels(found), time.monotonic() - begin

    return send


@dataclass(frozen=True, slots=True)
class Copy:
    canary: Deployment
    send: Send
    expected: Essence | None  # of the answer that the caller got


class Shadows:
    def __init__(self, judge: Judge) -> None:
        """`judge` is called when the figures of a canary have changed."""
        self._judge = judge
        self._waiting: asyncio.Queue[Copy] = asyncio.Queue(MAX_WAITING)
        self._workers: list[asyncio.Task[Any]] = []

    def offer(self, copy: Copy) -> None:
        """Send it soon, or drop it where too many wait."""
        if not self._workers:
            self._workers = [asyncio.create_task(self._work()) for _ in range(WORKERS)]
        try:
            self._waiting.put_nowait(copy)
        except asyncio.QueueFull:
            if copy.canary.watch is not None:
                copy.canary.watch.dropped += 1

    async def close(self) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            copy = await self._waiting.get()
            try:
                await self._send(copy)
            except Exception:  # a defect here must not end the comparison of later ones
                logger.exception("a copy of a request to %s failed", copy.canary.name)

    async def _send(self, copy: Copy) -> None:
        canary, watch = copy.canary, copy.canary.watch
        if watch is None or not canary.replicas:  # rolled back, or undeployed, while this waited
            return
        try:
            replica = router.choose_replica(canary)
            with replica.serving() as client:
                send = copy.send(client, replica.version)
                found, seconds = await asyncio.wait_for(send, COPY_SECONDS)
        except Overloaded:
            watch.dropped += 1  # callers come first
            return
        except (ApiError, asyncio.TimeoutError):
            watch.own.failed()
        else:
            watch.own.succeeded(seconds)
            if copy.expected is not None and found is not None:
                watch.compared(agreement(copy.expected, found))
        self._judge(canary)


class Rollbacks:
    """Takes the traffic from a canary that passed a bound; its record, the log and a metric say why."""

    def __init__(
        self, deployments: Mapping[str, Deployment], records: DeploymentStore, report: Report
    ) -> None:
        self.counts: Counter[str] = Counter()  # by model
        self._deployments = deployments
        self._records = records
        self._report = report
        self._recording: set[asyncio.Task[None]] = set()

    def judge(self, canary: Deployment) -> None:
        """Roll it back where its figures call for that, and another deployment can have its traffic."""
        if canary.watch is None or (fault := canary.watch.fault()) is None or not self._has_other(canary):
            return
        seconds = canary.watch.figures.seconds
        canary.remember("rolled-back", fault, traffic_weight=0, canary=None)
        canary.unrecorded = True
        self.counts[canary.record.model] += 1
        logger.warning("%s is rolled back after %.1f s: %s", canary.name, seconds, fault)
        task = asyncio.create_task(self._record(canary))
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)

    def _has_other(self, canary: Deployment) -> bool:
        return any(
            item is not canary
            and item.record.model == canary.record.model
            and item.record.traffic_weight > 0
            and item.serves
            for item in self._deployments.values()
        )

    async def _record(self, canary: Deployment) -> None:
        """Write what holds in memory already; as often as it takes."""
        for times in itertools.count(1):
            try:
                with suppress(NotFound):  # undeployed meanwhile
                    await self._records.update(canary.status)
            except StoreUnavailable:  # noqa: PERF203 - trying again is the point
                logger.warning("the rollback of %s cannot be recorded yet; trying again later", canary.name)
                await asyncio.sleep(backoff_seconds(times, MAX_BACKOFF_SECONDS))
            else:
                canary.unrecorded = False
                await self._report("rollback", "rollback", canary.record, canary.record.variant.value)
                return

    async def close(self) -> None:
        for task in self._recording:
            task.cancel()
        await asyncio.gather(*self._recording, return_exceptions=True)
