"""`lmaas store`, `backup`, `restore`: records and files of LMAAS_HOME. A server may run meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cli.command import AsJson, fail
from cli.local import on_database, record_change, settings_now
from cli.show import plain, print_json, print_table, size

if TYPE_CHECKING:
    from api.back.store.blobs import BlobStore
    from api.back.store.database import Database
    from api.config import Settings

store = typer.Typer(
    help="Check the stored files, delete unused ones, and bring the database up to date.",
    no_args_is_help=True,
)

Result = TypeVar("Result")
DAMAGED = 1  # exit status of a check that finds something


@store.command("gc")
def collect(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be deleted.")] = False,
    grace_hours: Annotated[
        float | None,
        typer.Option(min=0, help="Keep what is younger. Default: LMAAS_UPLOAD_RETENTION_HOURS."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete files that no model uses. A server does this every hour by itself."""
    from api.back.store import garbage
    from api.back.store.blobs import Blob

    async def work(database: Database, blobs: BlobStore, settings: Settings) -> list[Blob]:
        retention = settings.back.upload_retention
        grace = retention if grace_hours is None else timedelta(hours=grace_hours)
        if dry_run:
            return await garbage.find_unreferenced(database, blobs, grace)
        deleted = await garbage.collect(database, blobs, grace)
        if deleted:
            await record_change(database, settings, "store gc", f"{len(deleted)} files")
        return deleted

    found = _on_store(work)
    if as_json:
        deleted = [{"sha256": blob.sha256, "size": blob.size} for blob in found]
        print_json({"dry_run": dry_run, "data": deleted})
        return
    rows = [(blob.sha256, size(blob.size), f"{blob.modified:%Y-%m-%d %H:%M} UTC") for blob in found]
    print_table(("file", "size", "written"), rows, "no unused files")
    if found:
        total = size(sum(blob.size for blob in found))
        print(f"{len(found)} files, {total}, {'would be deleted' if dry_run else 'deleted'}")


@store.command("fsck")
def check(
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare sizes only; do not read the files.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that every file of every record is there and has its digest; status 1 where one has not."""
    from api.back.store import fsck

    async def work(database: Database, blobs: BlobStore, _: Settings) -> fsck.Report:
        return await fsck.check(database, blobs, contents=not quick)

    report = _on_store(work)
    if as_json:
        print_json(asdict(report))
    else:
        rows = [(item.record, item.problem, item.remedy) for item in report.findings]
        print_table(("record", "what is wrong", "what to do"), rows, "nothing is wrong")
        print(
            f"{report.num_records} records; {report.num_blobs} files, {size(report.num_bytes)}, "
            f"{report.num_unreferenced} of them unused"
        )
    if report.findings:
        raise typer.Exit(DAMAGED)


@store.command("migrate")
def migrate() -> None:
    """Bring the database to the schema of this release. A server does this by itself when it starts."""

    async def opened(database: Database, _: Settings) -> str:
        return database.where

    print(f"{plain(on_database(opened))}: it has the schema of this release")


def backup(
    file: Annotated[Path, typer.Argument(help="The .tar to write; it must not exist.")],
    as_json: AsJson = False,
) -> None:
    """Write records and files as one file, at one moment, while a server runs.

    It holds models, records of tasks, API keys as hashes, and no secret. Settings are not in there.
    """
    from api.back.store.backup import Backup, write_backup

    async def work(database: Database, blobs: BlobStore, settings: Settings) -> Backup:
        return await write_backup(database, blobs, settings.home, file)

    written = _on_store(work)
    _tell(written, as_json, f"{file}: records and {written.num_blobs} files, {size(written.size)}")


def restore(
    file: Annotated[Path, typer.Argument(help="A backup.", exists=True, dir_okay=False)],
    home: Annotated[Path | None, typer.Option(help="An empty folder; default: LMAAS_HOME.")] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a backup into an empty home, and into a database and a bucket where the settings name them."""
    import os

    from api.back.home import OTHERS
    from api.back.store.backup import Backup
    from api.back.store.database import Database
    from api.back.store.restore import restore as bring_back
    from api.errors import ApiError

    settings = settings_now(home=None if home is None else str(home))

    async def work() -> Backup:
        brought = await bring_back(file, settings.back)
        async with Database.open(settings.back.database) as database:
            await record_change(database, settings, "restore", file.name)
        return brought

    os.umask(OTHERS)
    try:
        brought = asyncio.run(work())
    except (ApiError, OSError) as error:
        fail(plain(str(error)))
    _tell(brought, as_json, f"{settings.home}: the backup of {brought.created}; `lmaas up` serves it")


def _tell(of: object, as_json: bool, text: str) -> None:
    from api.back.store.backup import Backup

    assert isinstance(of, Backup)
    if as_json:
        print_json({"created": of.created, "blobs": of.num_blobs, "size": of.size})
    else:
        print(text)


def _on_store(work: Callable[[Database, BlobStore, Settings], Awaitable[Result]]) -> Result:
    """Do it on the store of the settings; an error ends the command with one line."""
    from api.back.store.blob_lock import BlobLock
    from api.back.store.blobs import BlobStore

    async def with_blobs(database: Database, settings: Settings) -> Result:
        back = settings.back
        lock = BlobLock(database, back.blob_lock)
        blobs = await asyncio.to_thread(BlobStore.open, back.blobs, back.blob_url, lock)
        return await work(database, blobs, settings)

    return on_database(with_blobs)
