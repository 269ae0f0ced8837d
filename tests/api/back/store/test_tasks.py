"""Task records: durable ones, and those that are written behind."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import anyio
import pytest

from api.back.settings import BackSettings
from api.back.store import task_events, task_writer
from api.back.store import tasks as module
from api.back.store.records import TaskError, TaskRecord, TaskState, now
from api.back.store.task_events import StoredEvent
from api.caller import Caller, Scope
from api.errors import FieldError, NotFound
from tests.api.back.stores import Stores, open_stores

pytestmark = pytest.mark.anyio
BEGIN = now()
ERROR = TaskError("invalid-input", "prompt: is empty", (FieldError("prompt", "is empty"),))


def record(number: int, state: TaskState = TaskState.QUEUED, type: str = "generate") -> TaskRecord:  # noqa: A002
    return TaskRecord(
        id=f"task-{number:03}",
        type=type,
        state=state,
        asynchronous=True,
        caller=Caller("127.0.0.1", "0123abc", frozenset({Scope.TASKS, Scope.INFER})),
        model="tiny",
        parameters={"prompt": "héllo", "n": 1},
        created=BEGIN + timedelta(seconds=number // 2),  # pairs share a time
    )


async def test_a_record_comes_back_as_it_was(stores: Stores) -> None:
    added = record(1)
    await stores.writer.add(added)
    assert await stores.tasks.get(added.id) == added
    done = dataclasses.replace(
        added, state=TaskState.DONE, result={"choices": []}, started=now(), finished=now()
    )
    stores.writer.put(done)
    await stores.writer.flush()
    assert await stores.tasks.get(added.id) == done
    failed = dataclasses.replace(record(2), state=TaskState.FAILED, error=ERROR)
    await stores.writer.add(failed)
    assert await stores.tasks.get(failed.id) == failed


async def test_an_outcome_is_final(stores: Stores) -> None:
    done = dataclasses.replace(record(1), state=TaskState.DONE, result={"choices": []}, finished=now())
    await stores.writer.add(done)
    for later in (record(1, TaskState.RUNNING), dataclasses.replace(record(1), state=TaskState.FAILED)):
        stores.writer.put(later)
        await stores.writer.flush()
        assert await stores.tasks.get(done.id) == done


async def test_what_is_not_there_is_not_found(stores: Stores) -> None:
    for call in (stores.tasks.get("x"), stores.tasks.list(before="x")):
        with pytest.raises(NotFound, match="'x'"):
            await call


async def test_lists_go_back_in_time_page_by_page(stores: Stores) -> None:
    for number in range(7):
        await stores.writer.add(record(number, type="nlu" if number % 3 else "generate"))
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
        stores.writer.put(record(number, TaskState.RUNNING))
    stores.writer.put(record(1, TaskState.DONE))
    assert (await stores.tasks.get("task-001")).state is TaskState.DONE
    assert len(await stores.tasks.list()) == 3
    running = await stores.tasks.list(state=TaskState.RUNNING)
    assert [task.id for task in running] == ["task-002", "task-000"]


async def test_put_records_outlive_the_store(settings: BackSettings) -> None:
    async with open_stores(settings) as first:
        for number in range(task_writer.BATCH + 5):
            first.writer.put(record(number))
    async with open_stores(settings) as second:
        assert len(await second.tasks.list(limit=1000)) == task_writer.BATCH + 5


def finished(number: int, days_ago: float) -> TaskRecord:
    moment = BEGIN - timedelta(days=days_ago)
    return dataclasses.replace(record(number, TaskState.DONE), created=moment, finished=moment)


async def test_finished_records_are_kept_for_a_time(settings: BackSettings) -> None:
    clock = [BEGIN]
    async with open_stores(settings, lambda: clock[0]) as stores:
        for number in range(module.SWEEP_BATCH + 5):
            stores.writer.put(finished(number, 8))
        waiting = dataclasses.replace(record(800), created=BEGIN - timedelta(days=30))
        slow = dataclasses.replace(finished(801, 30), finished=BEGIN - timedelta(days=6.9))
        for kept in (waiting, slow, finished(802, 6.9)):
            stores.writer.put(kept)
        await stores.writer.flush()
        assert await stores.tasks.sweep() == module.SWEEP_BATCH + 5
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
        await first.writer.add(finished(1, 6))
        await first.writer.add(finished(2, 1))
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


async def test_events_of_a_task_are_bounded_and_leave_in_time(
    settings: BackSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_events, "MAX_BYTES", 1000)
    clock = [now()]
    async with open_stores(settings, lambda: clock[0]) as stores:
        task = record(1)
        await stores.writer.add(task)
        for number in range(100):
            stores.queue.report(task, number, "progress", {"done": number})
            if number in (10, 99):
                await stores.writer.add(record(number))  # a commit
        found = await stores.tasks.events(task.id, 0, 0)
        assert [event.number for event in found] == list(range(len(found)))
        assert 20 < len(found) < 50
        assert found[12] == StoredEvent(0, 12, "progress", {"done": 12})
        assert await stores.tasks.events(task.id, 0, 11) == found[11:]
        assert await stores.tasks.events(task.id, 0, len(found)) == []
        clock[0] = now() + task_events.KEPT + timedelta(seconds=1)
        await stores.tasks.sweep()
        assert await stores.tasks.events(task.id, 0, 0) == []


async def test_memory_is_bounded_while_the_database_is_away(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of synchronous tasks are given up, for their callers have the answer; no others are."""
    monkeypatch.setattr(task_writer, "MAX_WAITING", 3)
    for number in range(5):
        stores.writer.put(dataclasses.replace(record(number), asynchronous=number == 1))
    assert [task.id for task in await stores.tasks.list()] == ["task-004", "task-003", "task-001"]


async def test_tasks_of_one_caller_are_listed_by_its_key(stores: Stores) -> None:
    for number in range(4):
        task = record(number)
        caller = dataclasses.replace(task.caller, key=f"lmaas_{number % 2}")
        await stores.writer.add(dataclasses.replace(task, caller=caller))
    assert [task.id for task in await stores.tasks.list(caller_key="lmaas_1")] == ["task-003", "task-001"]
    assert await stores.tasks.list(caller_key="lmaas_2") == []
