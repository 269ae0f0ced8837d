"""The Cluster Manager: which version runs where, in which health."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from api.back.cluster.records import HeadAnswer, Readiness, ServerRecord, Target
from api.back.store.records import DeploymentRecord
from runtime.contract import Kind, Operation


class ClusterManager:
    async def deploy(
        self, model: str, version: int | str, precision: str, replicas: int = 1, traffic_weight: int = 100
    ) -> DeploymentRecord:
        """Load a version and return when it answered a probe.

        `precision` is auto, fp32, fp16 or int8. Raises NotFound; InvalidInput (`precision`, `replicas`,
        `traffic_weight`); Conflict (deployed already, not ready, no memory for it); ServerFault (it does not load).
        """
        raise NotImplementedError

    async def adjust(
        self, deployment_id: str, *, replicas: int | None, traffic_weight: int | None
    ) -> DeploymentRecord:
        """Change what is given. Raises NotFound, InvalidInput."""
        raise NotImplementedError

    async def undeploy(self, deployment_id: str) -> None:
        """Take no new requests, wait up to `drain_seconds` for running ones, unload. Raises NotFound."""
        raise NotImplementedError

    def deployments(self) -> list[DeploymentRecord]:
        """All deployments with their present health, oldest first."""
        raise NotImplementedError

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
        traffic weight. Without a model: the oldest deployment of `kind`, else of `fallback`; `suits` narrows
        these. Raises NotFound, InvalidInput (`model`: of another kind), Unavailable (it is loading or healing).
        """
        raise NotImplementedError

    def generate(
        self, target: Target, *, text: str, parameters: Mapping[str, Any], operation: Operation, stream: bool
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The decoded `details` of each response; closing the generator cancels in the engine.

        Raises the family of api/errors.py: what the engine said, or Unavailable where the server died.
        """
        raise NotImplementedError

    async def classify(self, target: Target, text: str, text_pair: str | None = None) -> HeadAnswer:
        """One text, or a pair, through a classifier or nlu model. Raises as `generate` does."""
        raise NotImplementedError

    def servers(self) -> list[ServerRecord]:
        """The pool as it is now."""
        raise NotImplementedError

    async def engine_metrics(self) -> str:
        """The lmaas_* lines of Triton's own /metrics, in Prometheus' text format; empty while it is away."""
        raise NotImplementedError

    def readiness(self) -> Readiness:
        """Whether each deployment answered a probe inference lately, and if not, why."""
        raise NotImplementedError
