"""Task records: durable ones, and those that are written behind."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import anyio
import pytest

from api.back.settings import BackSettings
from api.back.store import tasks as module
from api.back.store.records import TaskRecord, TaskState, now
from api.errors import NotFound
from tests.api.back.stores import Stores, open_stores

pytestmark = pytest.mark.anyio
BEGIN = now()


def record(number: int, state: TaskState = TaskState.QUEUED, type: str = "generate") -> TaskRecord:  # noqa: A002
    return TaskRecord(
        id=f"task-{number:03}",
        type=type,
        state=state,
        asynchronous=True,
        caller="127.0.0.1",
        model="tiny",
        parameters={"prompt": "héllo", "n": 1},
        created=BEGIN + timedelta(seconds=number // 2),  # pairs share a time
    )


async def test_a_record_comes_back_as_it_was(stores: Stores) -> None:
    added = record(1)
    await stores.tasks.add(added)
    assert await stores.tasks.get(added.id) == added
    done = dataclasses.replace(
        added, state=TaskState.DONE, result={"choices": []}, started=now(), finished=now()
    )
    stores.tasks.put(done)
    await stores.tasks.flush()
    assert await stores.tasks.get(added.id) == done


async def test_what_is_not_there_is_not_found(stores: Stores) -> None:
    for call in (stores.tasks.get("x"), stores.tasks.list(before="x")):
        with pytest.raises(NotFound, match="'x'"):
            await call


async def test_lists_go_back_in_time_page_by_page(stores: Stores) -> None:
    for number in range(7):
        await stores.tasks.add(record(number, type="nlu" if number % 3 else "generate"))
    first = await stores.tasks.list(limit=4)
    rest = await stores.tasks.list(limit=4, before=first[-1].id)
    assert [task.id for task in first + rest] == [f"task-{number:03}" for number in reversed(range(7))]
    assert [task.id for task in await stores.tasks.list(type="generate")] == [
        "task-006",
        "task-003",
        "task-000",
    ]
    assert await stores.tasks.list(state=TaskState.DONE) == []


async def test_a_put_record_is_visible_at_once(stores: Stores) -> None:
    for number in range(3):
        stores.tasks.put(record(number, TaskState.RUNNING))
    stores.tasks.put(record(1, TaskState.DONE))
    assert (await stores.tasks.get("task-001")).state is TaskState.DONE
    assert len(await stores.tasks.list()) == 3
    assert [task.id for task in await stores.tasks.unfinished()] == ["task-000", "task-002"]


async def test_put_records_outlive_the_store(settings: BackSettings) -> None:
    async with open_stores(settings) as first:
        for number in range(module.BATCH + 5):
            first.tasks.put(record(number))
    async with open_stores(settings) as second:
        assert len(await second.tasks.unfinished()) == module.BATCH + 5


def finished(number: int, days_ago: float) -> TaskRecord:
    moment = BEGIN - timedelta(days=days_ago)
    return dataclasses.replace(record(number, TaskState.DONE), created=moment, finished=moment)


async def test_finished_records_are_kept_for_a_time(settings: BackSettings) -> None:
    clock = [BEGIN]
    async with open_stores(settings, lambda: clock[0]) as stores:
        for number in range(module.BATCH + 5):
            stores.tasks.put(finished(number, 8))
        waiting = dataclasses.replace(record(800), created=BEGIN - timedelta(days=30))
        slow = dataclasses.replace(finished(801, 30), finished=BEGIN - timedelta(days=6.9))
        for kept in (waiting, slow, finished(802, 6.9)):
            stores.tasks.put(kept)
        await stores.tasks.flush()
        assert await stores.tasks.sweep() == module.BATCH + 5
        assert {task.id for task in await stores.tasks.list()} == {"task-800", "task-801", "task-802"}
        clock[0] += timedelta(days=1)
        assert await stores.tasks.sweep() == 2
        assert await stores.tasks.list() == [waiting]


async def test_old_records_go_at_the_start_and_from_time_to_time(
    settings: BackSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.001)
    clock = [BEGIN]
    async with open_stores(settings, lambda: clock[0]) as first:
        await first.tasks.add(finished(1, 6))
        await first.tasks.add(finished(2, 1))
        clock[0] += timedelta(days=2)
        await gone(first, "task-001")
    monkeypatch.setattr(module, "SWEEP_SECONDS", 3600.0)
    async with open_stores(settings, lambda: BEGIN + timedelta(days=7)) as second:
        await gone(second, "task-002")


async def gone(stores: Stores, task_id: str) -> None:
    """Wait until the sweeper has deleted a record."""
    with anyio.fail_after(20):
        while task_id in {task.id for task in await stores.tasks.list()}:  # noqa: ASYNC110
            await anyio.sleep(0.001)


async def test_memory_is_bounded_while_the_database_is_away(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    for number in range(5):
        stores.tasks.put(record(number))
    assert [task.id for task in await stores.tasks.unfinished()] == ["task-002", "task-003", "task-004"]
