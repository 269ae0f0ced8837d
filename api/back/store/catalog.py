"""Rows to records and back: every statement about models that more than one place needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Row, Select, delete, func, insert, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from api.back.store.records import LATEST, ModelRecord, StoredFile, VersionRecord, VersionState
from api.back.store.tables import aliases, deployments, models, version_counters, version_files, versions
from api.errors import NotFound
from runtime.contract import Kind, Manifest


def no_model(name: str) -> NotFound:
    return NotFound(f"model {name!r} does not exist", "model")


async def read_model(connection: AsyncConnection, name: str) -> ModelRecord:
    """Raises NotFound (`model`)."""
    row = (await connection.execute(select(models).where(models.c.name == name))).one_or_none()
    if row is None:
        raise no_model(name)
    named = await read_aliases(connection, name)
    kind = await _kind(connection, name, named.get(LATEST))
    return ModelRecord(name, kind, row.description, named, row.created)


async def read_aliases(connection: AsyncConnection, name: str) -> dict[str, int]:
    """Alias -> version of one model, `latest` among them where a version is ready."""
    rows = await connection.execute(select(aliases.c.alias, aliases.c.version).where(aliases.c.model == name))
    named: dict[str, int] = {row.alias: row.version for row in rows}
    ready = versions.c.state == VersionState.READY.value
    latest = await connection.scalar(
        select(func.max(versions.c.version)).where(versions.c.model == name, ready)
    )
    return named if latest is None else {LATEST: latest, **named}


async def _kind(connection: AsyncConnection, name: str, version: int | None) -> Kind | None:
    if version is None:
        return None
    text = await connection.scalar(
        select(versions.c.manifest).where(versions.c.model == name, versions.c.version == version)
    )
    return Manifest.from_json(text).kind if text else None


async def read_versions(
    connection: AsyncConnection, name: str, version: int | None = None
) -> list[VersionRecord]:
    """All versions of a model, lowest first, or only the one named."""
    query: Select[Any] = select(versions).where(versions.c.model == name).order_by(versions.c.version)
    files = select(version_files).where(version_files.c.model == name)
    if version is not None:
        query = query.where(versions.c.version == version)
        files = files.where(version_files.c.version == version)
    stored: dict[int, dict[str, StoredFile]] = {}
    for row in await connection.execute(files.order_by(version_files.c.path)):
        stored.setdefault(row.version, {})[row.path] = StoredFile(row.sha256, row.size)
    return [_version(row, stored.get(row.version, {})) for row in await connection.execute(query)]


def _version(row: Row[Any], files: dict[str, StoredFile]) -> VersionRecord:
    manifest = Manifest.from_json(row.manifest) if row.manifest else None
    return VersionRecord(
        model=row.model,
        version=row.version,
        state=VersionState(row.state),
        kind=manifest.kind if manifest else None,
        archive_sha256=row.archive_sha256,
        files=files,
        manifest=manifest,
        error=row.error,
        created=row.created,
    )


async def find_upload(connection: AsyncConnection, name: str, sha256: str) -> VersionRecord | None:
    """The version of this model that the same archive made."""
    number = await connection.scalar(
        select(versions.c.version).where(versions.c.model == name, versions.c.archive_sha256 == sha256)
    )
    return None if number is None else (await read_versions(connection, name, number))[0]


async def next_version(connection: AsyncConnection, name: str) -> int:
    """Count on: the number was never given before under this name, deleted versions included."""
    last = await connection.scalar(select(version_counters.c.last).where(version_counters.c.model == name))
    if last is None:
        await connection.execute(insert(version_counters).values(model=name, last=1))
        return 1
    await connection.execute(
        update(version_counters).where(version_counters.c.model == name).values(last=last + 1)
    )
    return int(last) + 1


async def write_state(
    connection: AsyncConnection,
    record: VersionRecord,
    state: VersionState,
    *,
    error: str | None = None,
    manifest: Manifest | None = None,
    files: Mapping[str, StoredFile] | None = None,
) -> None:
    """Move a version on. Raises NotFound where it was deleted meanwhile."""
    here = (versions.c.model == record.model, versions.c.version == record.version)
    text = manifest.to_json() if manifest else None
    result = await connection.execute(
        update(versions).where(*here).values(state=state.value, error=error, manifest=text)
    )
    if result.rowcount == 0:
        raise NotFound(f"model {record.model!r} version {record.version} was deleted")
    if files:
        key = {"model": record.model, "version": record.version}
        rows = [
            {**key, "path": path, "sha256": file.sha256, "size": file.size} for path, file in files.items()
        ]
        await connection.execute(insert(version_files), rows)


async def deployed_versions(connection: AsyncConnection, name: str) -> set[int]:
    rows = await connection.execute(select(deployments.c.version).where(deployments.c.model == name))
    return {row.version for row in rows}


async def set_alias(connection: AsyncConnection, name: str, alias: str, version: int | None) -> None:
    """Point `alias` at a version, or drop it."""
    await connection.execute(delete(aliases).where(aliases.c.model == name, aliases.c.alias == alias))
    if version is not None:
        await connection.execute(insert(aliases).values(model=name, alias=alias, version=version))


async def referenced(connection: AsyncConnection, among: Iterable[str] | None = None) -> set[str]:
    """The sha256 of the blobs that a version refers to, of all or of those in `among`."""
    archives, files = select(versions.c.archive_sha256), select(version_files.c.sha256)
    if among is not None:
        wanted = list(among)
        archives = archives.where(versions.c.archive_sha256.in_(wanted))
        files = files.where(version_files.c.sha256.in_(wanted))
    return set((await connection.execute(union_all(archives, files))).scalars())
