"""Deployment records: what the cluster should hold, so that a start can bring it back."""

from __future__ import annotations

from api.back.store.records import DeploymentRecord


class DeploymentStore:
    async def add(self, record: DeploymentRecord) -> None:
        """Raises Conflict where that version is deployed already."""
        raise NotImplementedError

    async def update(self, record: DeploymentRecord) -> None:
        """Raises NotFound."""
        raise NotImplementedError

    async def get(self, id: str) -> DeploymentRecord:
        """Raises NotFound."""
        raise NotImplementedError

    async def list(self, model: str | None = None) -> list[DeploymentRecord]:
        """Oldest first."""
        raise NotImplementedError

    async def delete(self, id: str) -> None:
        """Raises NotFound."""
        raise NotImplementedError
