"""Requests of callers: each goes to a deployment, there to a replica, and to another one if that dies.

A request whose model server dies is sent again, while nothing of its answer has gone to the caller. Inference
changes nothing, so that a second try does no harm. A request that itself kills the server must not kill every
server: the number of tries is limited.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from api.back.cluster import router
from api.back.cluster.canaries import FAULTS, Canaries, heads_again, observed
from api.back.cluster.canary import labels
from api.back.cluster.controller import first_of
from api.back.cluster.deployment import Deployment
from api.back.cluster.idling import Idling
from api.back.cluster.pool import ServerPool
from api.back.cluster.records import HeadAnswer, Report, Target
from api.back.cluster.replica import Replica
from api.back.settings import BackSettings
from api.back.store.deployments import DeploymentStore
from api.back.store.models import ModelStore
from api.back.store.records import DeploymentRecord, DeploymentState
from api.errors import Unavailable
from api.log_context import LogContext
from runtime.calibration import Calibration
from runtime.commands import Submit
from runtime.contract import Kind, Operation
from runtime.messages import Answer

MAX_TRIES = 3
DEADLINE = "deadline_ms"  # what the engine calls the time that a request has left

logger = logging.getLogger(__name__)


class Inference:
    def __init__(
        self, settings: BackSettings, pool: ServerPool, models: ModelStore, records: DeploymentStore
    ) -> None:
        self._models = models
        self._retry_seconds = settings.retry_seconds
        self._deployments: dict[str, Deployment] = {}  # by id, oldest first
        self._idling = Idling(pool, self._deployments, settings.idle_unload_seconds)
        self._draining: list[Deployment] = []  # they were replaced, and end the tasks that had chosen them
        self.observers: list[Report] = []  # of changes that no caller asked for
        self._canaries = Canaries(self._deployments, records, self._report)

    def choose(
        self,
        model: str | None,
        version: int | str | None,
        kind: Kind,
        *,
        fallback: Kind | None = None,
        suits: Callable[[Target], bool] | None = None,
    ) -> Target:
        """The deployment for a request.

        With a model and a version (or alias): that deployment. With a model alone: one of its deployments, by
        traffic weight. Without a model: the oldest deployment of `kind`, else of `fallback`, that `suits`.
        Raises NotFound, InvalidInput (`model`: of another kind), Unavailable (it is loading or healing).
        """
        deployed = [
            item for item in self._deployments.values() if item.state is not DeploymentState.UNLOADING
        ]
        if model is None:
            found = router.choose_of_kind(deployed, kind, fallback, suits)
        elif version is None:
            found = router.choose_of_model(deployed, model)
        else:
            found = router.choose_version(deployed, model, self._models.resolve(model, version))
        router.require_kind(found, kind, fallback)
        if not found.serves:
            found.require_ready()
        LogContext.current().model = found.target.model
        return found.target

    def targets(self, model: str) -> list[Target]:
        """The deployments of a model, as requests see them."""
        return [item.target for item in self._deployments.values() if item.target.model == model]

    def generate(
        self,
        target: Target,
        *,
        prompt: str | Sequence[int],
        parameters: Mapping[str, Any],
        operation: Operation,
        stream: bool,
    ) -> AsyncGenerator[Answer, None]:
        """The answer, or its pieces; closing the generator cancels in the engine.

        Raises the family of api/errors.py: the engine's own error, or Unavailable where the server died and
        another try was not possible, or might repeat a part of the answer.
        """
        deployment = self._deployment(target)
        request = Submit(prompt, operation, parameters, stream)
        answers = self._answers(deployment, request)
        observation = self._canaries.observe(deployment)
        return answers if observation is None else observed(answers, request, observation)

    async def _answers(self, deployment: Deployment, request: Submit) -> AsyncGenerator[Answer, None]:
        """Of the first replica that does not die before it has begun to answer."""
        parameters = remaining(request.parameters, await self._idling.end(deployment))
        tries, begun = Tries(deployment, self._retry_seconds, parameters), False
        while True:
            try:
                replica = tries.replica()
                with replica.serving() as client:
                    answer = client.generate(
                        replica.version,
                        prompt=request.prompt,
                        parameters=tries.parameters,
                        operation=request.operation,
                        stream=request.stream,
                    )
                    async with aclosing(answer):
                        async for piece in answer:
                            replica.answered()
                            begun = True
                            yield piece
                return
            except Unavailable as error:  # noqa: PERF203 - trying again is the point
                if begun:  # a part of the answer is with the caller
                    raise
                await tries.after(error)

    def calibration(self, target: Target) -> Calibration | None:
        """Of the target's version as it is now; None: its scores are as the model gives them."""
        return self._models.calibrations.of(target.model, target.version)

    async def classify(
        self,
        target: Target,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        temperature: float | None = None,
        *,
        special_tokens: bool = True,
    ) -> list[HeadAnswer]:
        """Up to MAX_HEAD_BATCH texts, or pairs, through a classifier or nlu model.

        The logits of the labels are divided by `temperature`. `special_tokens` is the engine's parameter of
        that name. Raises as `generate` does; the field of an
        InvalidInput names the row as HeadTensors says.
        """
        deployment = self._deployment(target)
        observation = self._canaries.observe(deployment)
        if observation is None:
            return await self._classified(deployment, texts, text_pairs, temperature, special_tokens)
        try:
            answers = await self._classified(deployment, texts, text_pairs, temperature, special_tokens)
        except FAULTS:
            observation.failed()
            raise
        again = heads_again(texts, text_pairs, special_tokens)
        observation.succeeded(observation.elapsed, again, lambda: labels(answers))
        return answers

    async def _classified(
        self,
        deployment: Deployment,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None,
        temperature: float | None,
        special_tokens: bool,
    ) -> list[HeadAnswer]:
        await self._idling.end(deployment)
        tries = Tries(deployment, self._retry_seconds)
        while True:
            try:
                replica = tries.replica()
                with replica.serving() as client:
                    answers = await client.classify(
                        replica.version, texts, text_pairs, temperature, special_tokens
                    )
                    replica.answered()
                    return answers
            except Unavailable as error:  # noqa: PERF203 - trying again is the point
                await tries.after(error)

    async def _report(self, actor: str, action: str, record: DeploymentRecord, outcome: str) -> None:
        for observer in self.observers:
            await observer(actor, action, record, outcome)

    def _deployment(self, target: Target) -> Deployment:
        """Raises Unavailable where it is gone."""
        for item in (self._deployments.get(target.deployment_id), *self._draining):
            if item is not None and item.target == target:
                return item
        raise Unavailable(f"{target.model}/{target.version} was undeployed")


def remaining(parameters: Mapping[str, Any], spent: float) -> Mapping[str, Any]:
    """The parameters of a request with what is left of its deadline, if it has one, after `spent` seconds."""
    if not spent or DEADLINE not in parameters:
        return parameters
    return {**parameters, DEADLINE: max(1, int(parameters[DEADLINE] - 1000 * spent))}


class Tries:
    """The tries of one request to a deployment. Times are monotonic seconds."""

    def __init__(
        self, deployment: Deployment, wait_seconds: float, parameters: Mapping[str, Any] | None = None
    ) -> None:
        """`wait_seconds` is the longest wait for a replica; the request's own deadline may come before it."""
        self._deployment = deployment
        self._parameters = parameters or {}
        self._begin = time.monotonic()
        self._end = self._begin + min(wait_seconds, self._parameters.get(DEADLINE, math.inf) / 1000)
        self._tries = 0

    def replica(self) -> Replica:
        """The replica for the next try. Raises Unavailable where none is ready."""
        self._tries += 1
        return router.choose_replica(self._deployment)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Those of the request, with the time that is left of its deadline now."""
        if self._tries == 1:
            return self._parameters
        return remaining(self._parameters, time.monotonic() - self._begin)

    async def after(self, error: Unavailable) -> None:
        """Return when another try may succeed. Raises `error` where none may, or no time or try is left."""
        if self._tries >= MAX_TRIES or not await self._wait_for_replica():
            raise error
        logger.info("%s: a request is sent again: %s", self._deployment.name, error.detail)

    async def _wait_for_replica(self) -> bool:
        deployment = self._deployment
        while not any(replica.ready and not replica.away for replica in deployment.replicas):
            left = self._end - time.monotonic()
            staying = [item for item in deployment.replicas if item.state is not DeploymentState.UNLOADING]
            if left <= 0 or not staying:
                return False
            await first_of(*(replica.changed for replica in staying), timeout=left)
        return time.monotonic() < self._end and deployment.state is not DeploymentState.UNLOADING
