"""Requests of callers: each goes to a deployment, there to a replica, and to another one if that dies."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from api.back.cluster import router
from api.back.cluster.canary import labels
from api.back.cluster.deployment import Deployment
from api.back.cluster.observation import FAULTS, Observation, canaries_of, heads_again, observed
from api.back.cluster.records import HeadAnswer, Target
from api.back.cluster.retry import Tries
from api.back.cluster.rollback import Rollbacks
from api.back.cluster.shadow import Shadows
from api.back.store.deployments import DeploymentStore
from api.back.store.models import ModelStore
from api.back.store.records import DeploymentState
from api.errors import Unavailable
from api.log_context import LogContext
from runtime.commands import Submit
from runtime.contract import Kind, Operation
from runtime.messages import Answer


class Inference:
    def __init__(self, models: ModelStore, records: DeploymentStore, retry_seconds: float) -> None:
        """`retry_seconds`: how long a request whose server died waits for a replica."""
        self._models = models
        self._retry_seconds = retry_seconds
        self._deployments: dict[str, Deployment] = {}  # by id, oldest first
        self._replaced: list[Deployment] = []  # they end the tasks that had chosen them
        self._rollbacks = Rollbacks(self._deployments, records)
        self._shadows = Shadows(self._rollbacks.judge)

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
        found.require_ready()
        LogContext.current().model = found.target.model
        return found.target

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
        observation = self._observe(deployment)
        return answers if observation is None else observed(answers, request, observation)

    async def _answers(self, deployment: Deployment, request: Submit) -> AsyncGenerator[Answer, None]:
        """Of the first replica that does not die before it has begun to answer."""
        tries, begun = Tries(deployment, self._retry_seconds, request.parameters), False
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

    async def classify(
        self, target: Target, texts: Sequence[str], text_pairs: Sequence[str] | None = None
    ) -> list[HeadAnswer]:
        """Up to MAX_HEAD_BATCH texts, or pairs, through a classifier or nlu model.

        Raises as `generate` does; the field of an InvalidInput names the row as HeadTensors says.
        """
        deployment = self._deployment(target)
        observation = self._observe(deployment)
        if observation is None:
            return await self._classified(deployment, texts, text_pairs)
        try:
            answers = await self._classified(deployment, texts, text_pairs)
        except FAULTS:
            observation.failed()
            raise
        observation.succeeded(observation.elapsed, heads_again(texts, text_pairs), lambda: labels(answers))
        return answers

    async def _classified(
        self, deployment: Deployment, texts: Sequence[str], text_pairs: Sequence[str] | None
    ) -> list[HeadAnswer]:
        tries = Tries(deployment, self._retry_seconds)
        while True:
            try:
                replica = tries.replica()
                with replica.serving() as client:
                    answers = await client.classify(replica.version, texts, text_pairs)
                    replica.answered()
                    return answers
            except Unavailable as error:  # noqa: PERF203 - trying again is the point
                await tries.after(error)

    def _deployment(self, target: Target) -> Deployment:
        """Raises Unavailable where it is gone."""
        for item in (self._deployments.get(target.deployment_id), *self._replaced):
            if item is not None and item.target == target:
                return item
        raise Unavailable(f"{target.model}/{target.version} was undeployed")

    def _observe(self, deployment: Deployment) -> Observation | None:
        """None where no canary is concerned."""
        canaries = canaries_of(self._deployments.values(), deployment)
        if not canaries:
            return None
        return Observation(deployment, canaries, self._shadows, self._rollbacks.judge)
