"""The way of a backup back into an empty home, and into an empty database where the settings name one."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tarfile
from pathlib import Path
from typing import IO, Any

from sqlalchemy import func, select

from api.back.home import LEDGER_FILE, only_user
from api.back.settings import BackSettings
from api.back.store import catalog
from api.back.store.backup import BLOBS, DATABASE, MANIFEST, Backup, copy_rows, sqlite_url
from api.back.store.blob_lock import BlobLock
from api.back.store.blobs import CHUNK, BlobStore
from api.back.store.database import Database
from api.back.store.failures import translated
from api.back.store.records import StoredFile
from api.back.store.tables import api_keys, models, tasks
from api.errors import ServerFault

MAX_MANIFEST_BYTES = 256 * 1024**2
IN_ANY_FOLDER = {"lock", "lost+found"}


async def restore(archive: Path, settings: BackSettings) -> Backup:
    """Bring a backup into an empty home, and into an empty database where the settings name one.

    The records come last: a home without them was not restored wholly. Raises ServerFault: the home or the
    database is in use, the archive is damaged; StoreUnavailable.
    """
    home = settings.home
    with translated(home, logged=False):
        await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True)
        with only_user(settings):
            _require_empty(home)
            try:
                return await _restore(archive, settings)
            except BaseException:
                await asyncio.to_thread(_clear, home)
                raise


async def _restore(archive: Path, settings: BackSettings) -> Backup:
    records = settings.home / f"{DATABASE}.restoring"
    trial = settings.home / "restoring"
    with _opened(archive) as tar:
        backup = await asyncio.to_thread(_read_manifest, tar)
        await _extract(tar, DATABASE, backup, records)
        async with Database.open(sqlite_url(records)) as database:
            lock = BlobLock(database, settings.blob_lock)
            blobs = await asyncio.to_thread(BlobStore.open, settings.blobs, settings.blob_url, lock)
            for name, file in list(backup.files.items())[1:]:
                if name == LEDGER_FILE:
                    await _extract(tar, name, backup, settings.home / LEDGER_FILE)
                else:
                    await _extract(tar, name, backup, trial)
                    await blobs.put(trial, file.sha256)
                    trial.unlink()
            async with database.read() as connection:
                missing = await catalog.referenced(connection) - {
                    file.sha256 for file in backup.files.values()
                }
            if missing:
                raise ServerFault(f"the backup lacks {len(missing)} files that its records name")
            if settings.database_url is not None:
                await _fill(settings.database_url, database)
    if settings.database_url is None:
        records.rename(settings.home / DATABASE)
    else:
        records.unlink()
    return backup


async def _fill(url: str, records: Database) -> None:
    async with Database.open(url) as target:
        async with target.read() as connection:
            for table in (models, tasks, api_keys):
                if await connection.scalar(select(func.count()).select_from(table)):
                    raise ServerFault(
                        f"database_url: the database has {table.name} already: name an empty one"
                    )
        await copy_rows(records, target)


def _opened(archive: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(archive, "r:")
    except tarfile.TarError as error:
        raise ServerFault(f"{archive} is no backup: {error}") from None


def _read_manifest(tar: tarfile.TarFile) -> Backup:
    member = _next(tar, MANIFEST)
    if member.size > MAX_MANIFEST_BYTES:
        raise ServerFault(f"the backup's {MANIFEST} has {member.size} bytes, at most {MAX_MANIFEST_BYTES}")
    backup = Backup.from_json(_content(tar, member).read())
    if next(iter(backup.files), None) != DATABASE:
        raise ServerFault(f"the backup does not begin with {DATABASE}")
    for name, file in backup.files.items():
        if name not in (DATABASE, LEDGER_FILE) and name != BLOBS + file.sha256:
            raise ServerFault(f"the backup names {name!r}, which no backup has")
    return backup


async def _extract(tar: tarfile.TarFile, name: str, backup: Backup, target: Path) -> None:
    """Write the next member to `target`. Raises ServerFault: it is another one, or damaged."""
    await asyncio.to_thread(_extract_now, tar, name, backup.files[name], target)


def _extract_now(tar: tarfile.TarFile, name: str, file: StoredFile, target: Path) -> None:
    member = _next(tar, name)
    content, total = _content(tar, member), hashlib.sha256()
    with target.open("wb") as out:
        while chunk := content.read(CHUNK):
            total.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    if (total.hexdigest(), member.size) != (file.sha256, file.size):
        raise ServerFault(f"the backup is damaged: {name} has other bytes than its manifest says")


def _next(tar: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    try:
        member = tar.next()
    except tarfile.TarError as error:
        raise ServerFault(f"the backup is damaged before {name}: {error}") from None
    if member is None or member.name != name or not member.isreg():
        raise ServerFault(f"the backup is damaged: {name} is not where it should be")
    return member


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[Any]:
    content = tar.extractfile(member)
    assert content is not None  # it is a plain file
    return content


def _require_empty(home: Path) -> None:
    found = sorted({path.name for path in home.iterdir()} - IN_ANY_FOLDER)
    if found:
        raise ServerFault(
            f"{home} is not empty (it has {found[0]}): restore into an empty folder, which LMAAS_HOME names"
        )


def _clear(home: Path) -> None:
    """It was empty before."""
    for path in home.iterdir():
        if path.name not in IN_ANY_FOLDER:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
