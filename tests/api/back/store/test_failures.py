"""A database that another process holds, and a full disk: the cause by name, soon, in one line of the log."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import logging
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from api.back.settings import BackSettings
from api.back.store import database, failures
from api.back.store.failures import SILENCE_SECONDS, OncePerMinute, translated
from api.back.store.records import TaskState, VersionState
from api.back.store.sweeping import sweeping
from api.errors import ServerFault, StoreFull, StoreUnavailable
from tests.api.back.conftest import AWKWARD_NAME
from tests.api.back.store.test_tasks import record
from tests.api.back.stores import Stores, file_of, locked, open_stores

pytestmark = pytest.mark.anyio
BOUND_SECONDS = 10.0  # far more than the 3 s that it takes, far less than to wait for one another
BIG = {"prompt": "x" * 100_000}


@pytest.fixture
def settings(tmp_path: Path) -> BackSettings:
    """What goes wrong with PostgreSQL is in test_postgresql.py."""
    return BackSettings(home=tmp_path / AWKWARD_NAME)


def state_of(settings: BackSettings, task_id: str) -> str | None:
    """The content of the file, read by a separate connection."""
    other = sqlite3.connect(file_of(settings))
    try:
        row = other.execute("SELECT state FROM tasks WHERE id = ?", (task_id,)).fetchone()
    finally:
        other.close()
    return None if row is None else str(row[0])


async def refusals(*calls: Awaitable[object]) -> list[StoreUnavailable]:
    with anyio.fail_after(BOUND_SECONDS):
        errors = await asyncio.gather(*calls, return_exceptions=True)
    found = [error for error in errors if isinstance(error, StoreUnavailable)]
    assert len(found) == len(errors), errors
    return found


async def recovered(stores: Stores) -> None:
    with anyio.fail_after(20):
        while stores.writer.failure is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_write_to_a_locked_database_fails_soon_with_the_cause(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    await stores.writer.add(record(1))
    with locked(stores.settings):
        async with sweeping(stores.tasks.sweep, "old records", seconds=60.0, closing=asyncio.Event()):
            errors = await refusals(
                *(stores.writer.add(record(number)) for number in range(10, 40)),
                *(stores.models.update("tiny", description="new") for _ in range(15)),
                *(stores.deployments.delete("d") for _ in range(15)),
            )
        assert {error.detail for error in errors} == {
            f"the database is locked by another process: {file_of(stores.settings)}"
        }
        assert not any(isinstance(error, StoreFull) for error in errors)
        stores.writer.put(dataclasses.replace(record(1), state=TaskState.RUNNING))
        await refusals(stores.tasks.list(), stores.queue.release(), stores.writer.flush())
        assert stores.writer.failure is not None
        assert (await stores.tasks.get("task-001")).state is TaskState.RUNNING
        assert await stores.models.list() == []
    await recovered(stores)
    assert [task.id for task in await stores.tasks.list()] == ["task-001"]
    assert state_of(stores.settings, "task-001") == "running"
    assert len([line for line in caplog.messages if "is locked" in line]) == 1
    assert "old records could not be deleted; trying again later" in caplog.messages
    assert "the database can be written again" in caplog.text


async def test_a_store_closes_while_the_database_is_locked(
    settings: BackSettings, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(BOUND_SECONDS):
        async with open_stores(settings) as stores:
            await stores.writer.add(record(1))
            stores.writer.put(record(2))
            lock = locked(settings)
            lock.__enter__()
    lock.__exit__(None, None, None)
    assert "the last states of 1 tasks could not be recorded" in caplog.text
    assert state_of(settings, "task-001") == "queued"


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """To how many pages databases may grow, as on a disk that is full then: the last number counts."""
    limits = [1_000_000]
    prepare = database._prepare_sqlite

    def limit(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={limits[-1]}")  # at least what it has

    def prepare_limited(engine: AsyncEngine) -> None:
        prepare(engine)
        event.listen(engine.sync_engine, "begin", limit)

    monkeypatch.setattr(database, "_prepare_sqlite", prepare_limited)
    return limits


async def test_a_full_disk_is_named(
    pages: list[int], stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    pages.append(1)
    full = f"the disk is full: {file_of(stores.settings)}: make room there"
    big = [dataclasses.replace(record(number), parameters=BIG) for number in range(20)]
    for error in await refusals(*map(stores.writer.add, big)):
        assert isinstance(error, StoreFull)
        assert error.detail == full
    pages.append(1_000_000)
    with anyio.fail_after(20):
        while True:
            try:
                await stores.writer.add(big[0])
                break
            except StoreFull:
                await asyncio.sleep(0.01)
    assert [task.id for task in await stores.tasks.list()] == ["task-000"]
    assert len([line for line in caplog.messages if full in line]) == 1


async def test_submissions_that_come_together_share_a_commit(stores: Stores) -> None:
    commits: list[Connection] = []
    event.listen(stores.database._engine.sync_engine, "commit", commits.append)

    async def submit(number: int) -> None:
        await stores.writer.add(record(number))
        assert state_of(stores.settings, f"task-{number:03}") == "queued"

    await asyncio.gather(*map(submit, range(100)))
    assert len(commits) < 10
    assert len(await stores.tasks.list(limit=200)) == 100


async def test_a_record_that_cannot_be_written_keeps_no_other_out(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    bad: Any = {"prompt": {1, 2}}  # no JSON
    records = record(1), dataclasses.replace(record(2), parameters=bad), record(3)
    ends = await asyncio.gather(*map(stores.writer.add, records), return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), ServerFault, type(None)]
    assert [task.id for task in await stores.tasks.list()] == ["task-003", "task-001"]
    assert "task record task-002 cannot be written" in caplog.text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of the given size in KiB."""
    folder = tmp_path / "small"
    folder.mkdir()

    def make(size: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no right to mount")
        return folder

    yield make
    subprocess.run(["umount", str(folder)], capture_output=True)


async def test_a_disk_that_is_really_full(
    small_disk: Callable[[int], Path], upload: Callable[[str], Path]
) -> None:
    """The database, and the blob store: each on a disk without room."""
    settings = BackSettings(home=small_disk(640))
    async with open_stores(settings) as stores:
        with pytest.raises(StoreFull, match=f"the disk is full: {settings.blobs}"):
            await stores.models.add_upload("tiny", upload("lm"), "lm.tar.gz")
        assert stores.blob_files() == set()
        big = [dataclasses.replace(record(number), parameters=BIG) for number in range(20)]
        with pytest.raises(StoreFull, match=f"the disk is full: {file_of(settings)}"):
            await asyncio.gather(*map(stores.writer.add, big))


async def test_a_conversion_that_fills_the_disk(
    small_disk: Callable[[int], Path], upload: Callable[[str], Path]
) -> None:
    archive = upload("lm")
    settings = BackSettings(home=small_disk(archive.stat().st_size // 1024 + 400))
    async with open_stores(settings) as stores:
        version, _ = await stores.models.add_upload("tiny", archive, "lm.tar.gz")
        with pytest.raises(StoreFull, match=f"the disk is full: {settings.staging}"):
            await stores.converter.convert(version)
        assert (await stores.models.version("tiny", 1)).state is VersionState.UPLOADED


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_quotas_are_full_disks_too(code: int) -> None:
    with pytest.raises(StoreFull, match="/home"), translated("/home"):
        raise OSError(code, "no")


@pytest.mark.parametrize("error", [FileNotFoundError("x"), sqlite3.ProgrammingError("x"), ValueError("x")])
def test_defects_pass_through(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translated("/home"):
        raise error
    assert caught.value is error


def test_a_line_comes_once_a_minute_and_counts_what_it_left_out() -> None:
    clock = [0.0]
    once = OncePerMinute(lambda: clock[0])

    def written(text: str) -> str | None:
        line = logging.LogRecord("x", logging.ERROR, "", 0, "%s", (text,), None)
        return line.getMessage() if once.filter(line) else None

    assert [written("a"), written("b"), written("a"), written("a")] == ["a", "b", None, None]
    clock[0] = SILENCE_SECONDS
    assert written("a") == "a (and 2 more times since the last line)"
    assert written("a") is None
    keys = (f"GET {letter * 2}/{letter * 64} in {number}.5s: refused" for number, letter in enumerate("abc"))
    assert [written(key) is None for key in keys] == [False, True, True]
    clock[0] *= 2
    assert written("b") == "b"
    for number in range(2 * failures.MAX_CAUSES):
        written(str(number))
    assert len(once._written) <= failures.MAX_CAUSES
