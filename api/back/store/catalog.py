"""Rows to records and back: the statements about models, versions and aliases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Subquery,
    and_,
    delete,
    func,
    insert,
    select,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from api.back.store.records import LATEST, ModelRecord, StoredFile, VersionRecord, VersionState, now
from api.back.store.tables import (
    aliases,
    caller_files,
    deployments,
    models,
    version_counters,
    version_files,
    versions,
)
from api.errors import NotFound
from runtime.calibration import Calibration
from runtime.contract import Kind
from runtime.manifest import Manifest


def no_model(name: str) -> NotFound:
    return NotFound(f"model {name!r} does not exist", "model")


async def read_model(connection: AsyncConnection, name: str) -> ModelRecord:
    """Raises NotFound (`model`)."""
    found = await read_models(connection, name)
    if not found:
        raise no_model(name)
    return found[0]


async def read_models(connection: AsyncConnection, name: str | None = None) -> list[ModelRecord]:
    """All models by name, or only the one named. The queries are the same for any number of models."""
    named = await read_aliases(connection, name)
    kinds = await _kinds(connection, name)
    numbers: dict[str, list[int]] = {}
    query = select(versions.c.model, versions.c.version).order_by(versions.c.version)
    for row in await connection.execute(_only(query, versions.c.model, name)):
        numbers.setdefault(row.model, []).append(row.version)
    rows = await connection.execute(_only(select(models).order_by(models.c.name), models.c.name, name))
    return [
        ModelRecord(
            name=row.name,
            kind=kinds.get(row.name),
            description=row.description,
            aliases=named.get(row.name, {}),
            created=row.created,
            versions=tuple(numbers.get(row.name, ())),
        )
        for row in rows
    ]


async def read_names(connection: AsyncConnection) -> Sequence[str]:
    return (await connection.execute(select(models.c.name))).scalars().all()


async def describe(connection: AsyncConnection, name: str, description: str) -> None:
    await connection.execute(update(models).where(models.c.name == name).values(description=description))


async def read_aliases(connection: AsyncConnection, name: str | None = None) -> dict[str, dict[str, int]]:
    """Model -> alias -> version, of all models or of one; `latest` is among them where a version is ready.

    A model without aliases is absent.
    """
    latest = _latest_ready()
    found: dict[str, dict[str, int]] = {}
    for row in await connection.execute(_only(select(latest), latest.c.model, name)):
        found[row.model] = {LATEST: row.version}
    for row in await connection.execute(_only(select(aliases), aliases.c.model, name)):
        found.setdefault(row.model, {})[row.alias] = row.version
    return found


async def _kinds(connection: AsyncConnection, name: str | None) -> dict[str, Kind]:
    """Model -> the kind of its latest version that is ready."""
    latest = _latest_ready()
    same = and_(versions.c.model == latest.c.model, versions.c.version == latest.c.version)
    query = select(versions.c.model, versions.c.manifest).join(latest, same)
    rows = await connection.execute(_only(query, versions.c.model, name))
    return {row.model: Manifest.from_json(row.manifest).kind for row in rows if row.manifest}


def _latest_ready() -> Subquery:
    """Each model's highest version that is ready: columns `model` and `version`."""
    ready = versions.c.state == VersionState.READY.value
    highest = func.max(versions.c.version).label("version")
    return select(versions.c.model, highest).where(ready).group_by(versions.c.model).subquery()


def _only(query: Select[Any], column: ColumnElement[Any], name: str | None) -> Select[Any]:
    """Restricted to the rows of one model; of all models where `name` is None."""
    return query if name is None else query.where(column == name)


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
        calibration=Calibration.from_json(row.calibration) if row.calibration else None,
    )


async def read_calibrations(connection: AsyncConnection) -> dict[tuple[str, int], Calibration]:
    """By model and version; a version without one is absent."""
    query = select(versions.c.model, versions.c.version, versions.c.calibration)
    rows = await connection.execute(query.where(versions.c.calibration.is_not(None)))
    return {(row.model, row.version): Calibration.from_json(row.calibration) for row in rows}


async def write_calibration(
    connection: AsyncConnection, name: str, version: int, calibration: Calibration | None
) -> None:
    """None removes it."""
    text = None if calibration is None else calibration.to_json()
    here = (versions.c.model == name, versions.c.version == version)
    await connection.execute(update(versions).where(*here).values(calibration=text))


async def find_upload(connection: AsyncConnection, name: str, sha256: str) -> VersionRecord | None:
    """The version of this model that the same archive made."""
    number = await connection.scalar(
        select(versions.c.version).where(versions.c.model == name, versions.c.archive_sha256 == sha256)
    )
    return None if number is None else (await read_versions(connection, name, number))[0]


async def add_upload(connection: AsyncConnection, name: str, sha256: str) -> VersionRecord:
    """A new version of the model, which is made where it does not exist."""
    if await connection.scalar(select(models.c.name).where(models.c.name == name)) is None:
        await connection.execute(insert(models).values(name=name, description="", created=now()))
    number = await _next_version(connection, name)
    await connection.execute(
        insert(versions).values(
            model=name,
            version=number,
            state=VersionState.UPLOADED.value,
            archive_sha256=sha256,
            created=now(),
        )
    )
    return (await read_versions(connection, name, number))[0]


async def _next_version(connection: AsyncConnection, name: str) -> int:
    """The next number: never used before under this name, not even by a version that was deleted."""
    last = await connection.scalar(select(version_counters.c.last).where(version_counters.c.model == name))
    if last is None:
        await connection.execute(insert(version_counters).values(model=name, last=1))
        return 1
    await connection.execute(
        update(version_counters).where(version_counters.c.model == name).values(last=last + 1)
    )
    return int(last) + 1


async def restart_conversions(connection: AsyncConnection) -> None:
    """Let those that an earlier process had begun start again."""
    cut_off = versions.c.state == VersionState.CONVERTING.value
    await connection.execute(update(versions).where(cut_off).values(state=VersionState.UPLOADED.value))


async def write_state(
    connection: AsyncConnection,
    record: VersionRecord,
    state: VersionState,
    *,
    error: str | None = None,
    manifest: Manifest | None = None,
    files: Mapping[str, StoredFile] | None = None,
) -> None:
    """Record a version's new state. Raises NotFound where it was deleted meanwhile."""
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


async def delete_versions(connection: AsyncConnection, name: str, numbers: Iterable[int]) -> None:
    for number in numbers:
        here = (versions.c.model == name, versions.c.version == number)
        await connection.execute(delete(versions).where(*here))


async def delete_model(connection: AsyncConnection, name: str) -> None:
    await connection.execute(delete(models).where(models.c.name == name))


async def deployed_versions(connection: AsyncConnection, name: str) -> set[int]:
    rows = await connection.execute(select(deployments.c.version).where(deployments.c.model == name))
    return {row.version for row in rows}


async def set_alias(connection: AsyncConnection, name: str, alias: str, version: int | None) -> None:
    """Point `alias` at a version; None removes the alias."""
    await connection.execute(delete(aliases).where(aliases.c.model == name, aliases.c.alias == alias))
    if version is not None:
        await connection.execute(insert(aliases).values(model=name, alias=alias, version=version))


async def referenced(connection: AsyncConnection, among: Iterable[str] | None = None) -> set[str]:
    """The sha256 of the blobs that a version or a caller's file refers to, of all or of those in `among`."""
    queries = [
        select(column)
        for column in (versions.c.archive_sha256, version_files.c.sha256, caller_files.c.sha256)
    ]
    if among is not None:
        wanted = list(among)
        queries = [query.where(query.selected_columns[0].in_(wanted)) for query in queries]
    return set((await connection.execute(union_all(*queries))).scalars())
