"""Callers' files: who may keep how many, and for how long."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from api.back.store.batches import BatchStore
from api.back.store.files import FileDownload, FileStore
from api.back.store.records import FileRecord, now
from api.caller import Caller
from api.errors import Conflict

BATCH_INPUT = "batch"  # the purpose of an upload
TRAINING_INPUT = "fine-tune"  # likewise, as OpenAI calls it
BATCH_OUTPUT = "batch_output"  # the purpose of what a batch writes
LONGEST_NAME = 255  # characters


@dataclass(frozen=True, slots=True)
class FileLimits:
    """How many files are kept at once, and for how long."""

    of_one_caller: int
    of_all: int
    retention: timedelta


class Files:
    """A caller sees its own files, an administrator those of all."""

    def __init__(self, store: FileStore, batches: BatchStore, limits: FileLimits) -> None:
        self._store = store
        self._batches = batches
        self._limits = limits

    async def require_room(self, caller: Caller, wanted: int = 1) -> None:
        """Raises Conflict where the caller, or all callers together, would have too many files."""
        owner = caller.fairness_key
        for count, limit, whose in (
            (await self._store.count(owner), self._limits.of_one_caller, "you have"),
            (await self._store.count(None), self._limits.of_all, "this server has"),
        ):
            if count + wanted > limit:
                raise Conflict(f"{whose} {count} files, of at most {limit}: delete files that are not needed")

    async def add(
        self,
        caller: Caller,
        path: Path,
        *,
        filename: str,
        size: int,
        sha256: str,
        lifetime: timedelta | None,
        purpose: str = BATCH_INPUT,
    ) -> FileRecord:
        """Keep an upload; `lifetime` may only shorten the retention. Raises Conflict, StoreUnavailable."""
        await self.require_room(caller)
        record = self.new(f"file-{secrets.token_hex(12)}", caller, filename, purpose, size, sha256, lifetime)
        await self._store.add(record, path)
        return record

    def new(
        self,
        file_id: str,
        caller: Caller,
        filename: str,
        purpose: str,
        size: int,
        sha256: str,
        lifetime: timedelta | None = None,
    ) -> FileRecord:
        """The record of a new file."""
        created = now()
        return FileRecord(
            id=file_id,
            owner=caller.fairness_key,
            filename=filename[:LONGEST_NAME],
            purpose=purpose,
            sha256=sha256,
            size=size,
            created=created,
            expires=created + min(self._limits.retention, lifetime or self._limits.retention),
        )

    async def get(self, caller: Caller, file_id: str) -> FileRecord:
        """Raises NotFound."""
        return await self._store.get(file_id, owner_of(caller))

    async def list(
        self, caller: Caller, *, purpose: str | None, limit: int, after: str | None, ascending: bool
    ) -> Sequence[FileRecord]:
        """By age; `after` is the id of the file to go on after. Raises NotFound."""
        return await self._store.list(
            owner_of(caller), purpose=purpose, limit=limit, after=after, ascending=ascending
        )

    async def delete(self, caller: Caller, file_id: str) -> None:
        """Raises NotFound; Conflict while a batch reads it."""
        if await self._batches.uses(file_id):
            raise Conflict(f"file {file_id} is the input of a batch that is not over: cancel the batch first")
        await self._store.delete(file_id, owner_of(caller))

    async def put(self, record: FileRecord, path: Path) -> None:
        """Keep what a batch wrote. Raises StoreUnavailable."""
        await self._store.add(record, path)

    async def keep_until(self, record: FileRecord, moment: datetime) -> None:
        """Let it expire then, if it would expire earlier."""
        if record.expires < moment:
            await self._store.set_expiry(record.id, moment)

    async def download(self, caller: Caller, file_id: str) -> FileDownload:
        """Raises NotFound."""
        return self._store.download(await self.get(caller, file_id))


def owner_of(caller: Caller) -> str | None:
    """Whose files the caller sees; None: those of all."""
    return None if caller.owns_all else caller.fairness_key
