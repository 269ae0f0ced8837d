"""API keys: a public id, and a secret of which only the digest is kept.

A key is its id, `_` and the secret: `lmaas_` and 12 hexadecimal digits, then 43 characters of base64url,
which are 256 random bits. A digest of such a secret needs no slow hash: there is nothing to guess.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Row, inspect, select, update
from sqlalchemy.engine import URL

from api.back.store import failures
from api.back.store.database import Database, engine_of, location
from api.back.store.records import KeyRecord, now
from api.back.store.tables import api_keys
from api.back.store.task_rows import insert_or_update
from api.caller import KEY_PREFIX, Limits, Scope
from api.errors import InvalidInput, NotFound

ID_BYTES = 6
SECRET_BYTES = 32
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+ -]{0,63}")
KEY = re.compile(rf"(?P<id>{KEY_PREFIX}[0-9a-f]{{{2 * ID_BYTES}}})_(?P<secret>[A-Za-z0-9_-]{{43}})")


class KeyStore:
    """The keys in the database. Every method raises StoreUnavailable."""

    def __init__(self, database: Database, clock: Callable[[], datetime] = now) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self,
        name: str,
        scopes: frozenset[Scope],
        limits: Limits,
        expires: datetime | None = None,
        key: str | None = None,
    ) -> tuple[KeyRecord, str]:
        """The record and the key, which cannot be had again.

        `key` was made elsewhere (`make_key`), as for a Secret of Kubernetes; where it is there already, its
        record stays as it is. Raises InvalidInput.
        """
        if not NAME.fullmatch(name):
            raise InvalidInput.of("name", f"{name!r} must have 1 to 64 letters, digits, spaces or ._@+-")
        if not scopes:
            raise InvalidInput.of("scopes", "a key needs one scope or more")
        moment = self._clock()
        if expires is not None and expires <= moment:
            raise InvalidInput.of("expires", f"{expires:%Y-%m-%d %H:%M:%S} UTC has passed")
        whole = make_key() if key is None else key
        parts = KEY.fullmatch(whole)
        if parts is None:
            form = "lmaas_, 12 hexadecimal digits, _ and 43 of A-Z a-z 0-9 _ -"
            raise InvalidInput.of("key", f"a key has the form {form}")
        digest = hashlib.sha256(parts["secret"].encode()).hexdigest()
        record = KeyRecord(parts["id"], name, digest, scopes, limits, moment, expires)
        async with self._database.write() as connection:
            adding = insert_or_update(connection.dialect.name, api_keys).values(_row(record))
            await connection.execute(adding.on_conflict_do_nothing(index_elements=[api_keys.c.id]))
            row = (await connection.execute(select(api_keys).where(api_keys.c.id == record.id))).one()
        there = _record(row)
        if not there.has_secret(parts["secret"]):
            raise InvalidInput.of("key", f"{record.id} is the id of another key")
        return there, whole

    async def list(self) -> list[KeyRecord]:
        """The oldest first; expired and revoked ones too."""
        query = select(api_keys).order_by(api_keys.c.created, api_keys.c.id)
        async with self._database.read() as connection:
            return [_record(row) for row in await connection.execute(query)]

    async def get(self, key_id: str) -> KeyRecord | None:
        async with self._database.read() as connection:
            row = (await connection.execute(select(api_keys).where(api_keys.c.id == key_id))).one_or_none()
        return None if row is None else _record(row)

    async def any(self) -> bool:
        """Whether a key was ever created."""
        async with self._database.read() as connection:
            return (await connection.execute(select(api_keys.c.id).limit(1))).first() is not None

    async def revoke(self, key_id: str) -> KeyRecord:
        """From now on the key is not valid; one that was revoked before stays as it is. Raises NotFound."""
        mine = api_keys.c.id == key_id
        change = update(api_keys).where(mine, api_keys.c.revoked.is_(None)).values(revoked=self._clock())
        async with self._database.write() as connection:
            await connection.execute(change)
            row = (await connection.execute(select(api_keys).where(mine))).one_or_none()
        if row is None:
            raise NotFound(f"there is no key {key_id!r}")
        return _record(row)


def make_key() -> str:
    """A new key; only its maker knows it."""
    return f"{KEY_PREFIX}{secrets.token_hex(ID_BYTES)}_{secrets.token_urlsafe(SECRET_BYTES)}"


async def keys_before_start(url: str | URL) -> list[KeyRecord]:
    """The keys of a database that no façade has opened yet; it is not changed, and may be of an older LMaaS.

    Raises ServerFault: a bad URL; StoreUnavailable.
    """
    engine = engine_of(url)
    file = engine.url.database
    try:
        # Not `Path.exists`, which raises where the folder may not be read: preflight says that.
        exists = file is not None and os.path.exists(file)  # noqa: ASYNC240 - nothing else runs yet
        if engine.dialect.name == "sqlite" and not exists:
            return []
        with failures.translated(location(engine), logged=False):
            async with engine.connect() as connection:
                if not await connection.run_sync(lambda sync: inspect(sync).has_table(api_keys.name)):
                    return []
                return [_record(row) for row in await connection.execute(select(api_keys))]
    finally:
        await engine.dispose()


def _row(record: KeyRecord) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in KeyRecord.__slots__}
    limits = {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in dataclasses.asdict(record.limits).items()
        if value is not None
    }
    return {**fields, "scopes": " ".join(sorted(record.scopes)), "limits": limits}


def _record(row: Row[Any]) -> KeyRecord:
    fields = dict(row._mapping)
    limits = dict(fields["limits"])
    if "models" in limits:
        limits["models"] = frozenset(limits["models"])
    scopes = frozenset(map(Scope, fields["scopes"].split()))
    return KeyRecord(**{**fields, "scopes": scopes, "limits": Limits(**limits)})
