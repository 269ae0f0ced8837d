"""What callers used, and what they changed: counted and recorded here, and shown to those who may see it."""

from __future__ import annotations

import logging

from api.back.store.audit import AuditStore
from api.back.store.records import AuditRecord, DeploymentRecord, UsageRecord, now
from api.back.store.usage import UsageStore
from api.caller import Caller
from api.errors import Forbidden, StoreUnavailable
from api.log_context import LogContext
from api.middle.job import Job
from api.middle.new_records import new_id

LONGEST_TARGET = 256  # characters that the audit log keeps of a path

log = logging.getLogger("lmaas.audit")


class Accounts:
    """Belongs to one event loop."""

    def __init__(self, usage: UsageStore, audit: AuditStore) -> None:
        self._usage = usage
        self._audit = audit

    def note(self, job: Job) -> None:
        """A task is over: what a model did for it is its key's. A name that no model has is not kept."""
        if job.served_by is not None:
            caller = job.record.caller
            self._usage.note(caller.key if caller.verified else "", job.served_by, job.usage)

    async def usage(
        self, caller: Caller, *, days: int, key: str | None, model: str | None, limit: int, offset: int
    ) -> list[UsageRecord]:
        """The caller's own; of all keys, or of `key`, for an admin. Raises Forbidden, StoreUnavailable."""
        if not caller.owns_all:
            if key not in (None, caller.key):
                raise Forbidden("the usage of other keys needs the scope admin")
            key = caller.key
        return await self._usage.list(days=days, key=key, model=model, limit=limit, offset=offset)

    async def record(
        self, caller: Caller, action: str, target: str, outcome: str, request_id: str | None
    ) -> None:
        """A change that the caller asked for. Where it cannot be recorded, the server's log has it."""
        actor = caller.key if caller.verified else ""
        await self._add(actor, caller.address, action, target, outcome, request_id)

    async def _add(
        self, actor: str, address: str, action: str, target: str, outcome: str, request_id: str | None
    ) -> None:
        record = AuditRecord(
            new_id(), now(), actor, address, action, target[:LONGEST_TARGET], outcome, request_id
        )
        try:
            await self._audit.add(record)
        except StoreUnavailable:
            log.error("not in the audit log: %s", record)

    async def record_model(self, caller: Caller, action: str, model: str, what: str, outcome: str) -> None:
        """What was done with a model, for its history: `what` is `versions/2` or `aliases/stable`."""
        request_id = LogContext.current().request_id
        await self.record(caller, action, f"{_of_model(model)}{what}", outcome, request_id)

    async def record_own(self, actor: str, action: str, record: DeploymentRecord, outcome: str) -> None:
        """What the appliance did with a deployment by itself, for the history of its model."""
        await self._add(actor, "local", action, _of_version(record), outcome, None)

    async def history(self, model: str, *, limit: int, before: str | None) -> list[AuditRecord]:
        """What `record_model` recorded, newest first. Raises NotFound (`before`), StoreUnavailable."""
        return await self._audit.list(limit=limit, before=before, below=_of_model(model))

    async def changes(self, *, limit: int, before: str | None) -> list[AuditRecord]:
        """Newest first. Raises NotFound (`before`), StoreUnavailable."""
        return await self._audit.list(limit=limit, before=before)


def _of_model(name: str) -> str:
    """How targets of a model begin; the path of a request begins with a slash."""
    return f"models/{name}/"


def _of_version(record: DeploymentRecord) -> str:
    return f"{_of_model(record.model)}versions/{record.version}"
