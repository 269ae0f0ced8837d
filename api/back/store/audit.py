"""Who changed what, when and from where: a row for each change that was asked for, with its outcome."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select

from api.back.store.database import Database
from api.back.store.records import AuditRecord, now
from api.back.store.tables import api_keys, audit
from api.errors import NotFound

MAX_ROWS = 100_000


class AuditStore:
    """Keeps rows for `retention`, and the newest `MAX_ROWS` of them. Every method raises StoreUnavailable."""

    def __init__(self, database: Database, retention: timedelta, clock: Callable[[], datetime] = now) -> None:
        self._database = database
        self._retention = retention
        self._clock = clock

    async def add(self, record: AuditRecord) -> None:
        """Durable when it returns. Changes are rare: each deletes what is too old by then."""
        row = {name: getattr(record, name) for name in AuditRecord.__slots__ if name != "name"}
        surplus = select(audit.c.id).order_by(audit.c.id.desc()).offset(MAX_ROWS).limit(1)
        async with self._database.write() as connection:
            await connection.execute(insert(audit).values(row))
            await connection.execute(delete(audit).where(audit.c.at < self._clock() - self._retention))
            last = (await connection.execute(surplus)).scalar_one_or_none()
            if last is not None:
                await connection.execute(delete(audit).where(audit.c.id <= last))

    async def list(
        self, *, limit: int = 50, before: str | None = None, below: str | None = None
    ) -> list[AuditRecord]:
        """Newest first; `before` is the id of the row to go on after; `below`: only targets that begin so.

        Raises NotFound (`before`).
        """
        names = audit.outerjoin(api_keys, audit.c.actor == api_keys.c.id)
        query = select(*audit.c, api_keys.c.name).select_from(names).order_by(audit.c.id.desc()).limit(limit)
        if below is not None:
            query = query.where(audit.c.target.startswith(below, autoescape=True))
        async with self._database.read() as connection:
            if before is not None:
                known = await connection.execute(select(audit.c.id).where(audit.c.id == before))
                if known.one_or_none() is None:
                    raise NotFound(f"the audit log has no entry {before!r}", "before")
                query = query.where(audit.c.id < before)
            return [AuditRecord(**row._mapping) for row in await connection.execute(query)]
