"""Task records. Which task runs when is decided in the middle layer; here they are kept."""

from __future__ import annotations

from api.back.store.records import TaskRecord, TaskState


class TaskStore:
    async def add(self, record: TaskRecord) -> None:
        """Durable when it returns."""
        raise NotImplementedError

    async def update(self, record: TaskRecord) -> None:
        """Durable when it returns. Raises NotFound."""
        raise NotImplementedError

    def put(self, record: TaskRecord) -> None:
        """Add or update, later: the record is visible at once through this store and written in the background."""
        raise NotImplementedError

    async def get(self, id: str) -> TaskRecord:
        """Raises NotFound."""
        raise NotImplementedError

    async def list(
        self,
        *,
        type: str | None = None,
        state: TaskState | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[TaskRecord]:
        """Newest first; `before` is the id of the task after which to go on (NotFound where it is unknown)."""
        raise NotImplementedError

    async def delete(self, id: str) -> None:
        """Raises NotFound."""
        raise NotImplementedError

    async def unfinished(self) -> list[TaskRecord]:
        """All tasks that are queued or running, oldest first: what a start has to take up or close."""
        raise NotImplementedError
