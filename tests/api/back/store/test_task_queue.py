"""The shared queue: each task has one owner at a time, and one outcome, over two connections to one file."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from api.back.settings import BackSettings
from api.back.store.records import TaskRecord, TaskState
from api.back.store.task_queue import LEASE, TaskQueue
from tests.api.back.store.test_tasks import BEGIN, record
from tests.api.back.stores import Stores, open_stores

pytestmark = pytest.mark.anyio
LANES = ("models",)


class Clock:
    def __init__(self) -> None:
        self.time = BEGIN

    def __call__(self) -> datetime:
        return self.time


@asynccontextmanager
async def two(settings: BackSettings, clock: Clock) -> AsyncIterator[tuple[Stores, Stores]]:
    """Two façades, `a` and `b`, each with its connections and its writer."""
    async with open_stores(settings, clock, "a") as a, open_stores(settings, clock, "b") as b:
        for stores in (a, b):
            await stores.queue.extend()
        yield a, b


def owned(queue: TaskQueue, number: int, state: TaskState = TaskState.QUEUED) -> TaskRecord:
    return dataclasses.replace(record(number, state), owner=queue.worker, attempt=1)


def done(task: TaskRecord, text: str) -> TaskRecord:
    return dataclasses.replace(task, state=TaskState.DONE, result={"text": text}, finished=BEGIN)


async def test_every_task_is_claimed_once(settings: BackSettings) -> None:
    async with two(settings, Clock()) as (a, b):
        for number in range(300):
            a.writer.put(record(number))
        await a.writer.flush()
        claimed: list[str] = []

        async def claim(queue: TaskQueue) -> None:
            while batch := await queue.claim(LANES, 7):
                assert {task.owner for task in batch} == {queue.worker}
                assert {task.attempt for task in batch} == {1}
                claimed.extend(task.id for task in batch)

        await asyncio.gather(*(claim(stores.queue) for stores in (a, b) * 2))
        assert sorted(claimed) == [f"task-{number:03}" for number in range(300)]


async def test_claims_go_by_age_and_lane(stores: Stores) -> None:
    for number in (3, 1, 2):
        stores.writer.put(record(number))
    stores.writer.put(dataclasses.replace(record(0), lane="conversions"))
    stores.writer.put(record(4, TaskState.DONE))
    await stores.writer.flush()
    assert [task.id for task in await stores.queue.claim(LANES, 2)] == ["task-001", "task-002"]
    assert [task.id for task in await stores.queue.claim(LANES, 2)] == ["task-003"]
    assert [task.id for task in await stores.queue.claim(["conversions"], 2)] == ["task-000"]


async def test_the_tasks_of_a_dead_owner_are_taken_over_after_its_lease(settings: BackSettings) -> None:
    clock = Clock()
    async with two(settings, clock) as (a, b):
        await a.queue.add(owned(a.queue, 1))
        running = owned(a.queue, 2, TaskState.RUNNING)
        await a.queue.add(running)
        for _ in range(3):
            clock.time += LEASE * 0.9
            assert await a.queue.extend()
            assert await b.queue.claim(LANES, 10) == []
        clock.time += LEASE * 1.1
        await b.queue.extend()
        claimed = await b.queue.claim(LANES, 10)
        assert [(task.id, task.owner, task.attempt, task.state.value) for task in claimed] == [
            ("task-001", "b", 2, "queued"),
            ("task-002", "b", 2, "queued"),
        ]
        assert not await a.queue.extend()
        assert await a.queue.owned() == set()
        assert await b.queue.owned() == {"task-001", "task-002"}
        assert not await a.queue.complete(done(running, "late"))
        assert await b.queue.complete(done(claimed[1], "in time"))
        assert not await a.queue.complete(done(running, "too late"))
        for stores in (a, b):
            assert (await stores.tasks.get(running.id)).result == {"text": "in time"}


async def test_a_worker_that_comes_back_changes_nothing_of_its_earlier_attempt(
    settings: BackSettings,
) -> None:
    async with two(settings, Clock()) as (a, b):
        first = owned(a.queue, 1, TaskState.RUNNING)
        await a.queue.add(first)
        await a.queue.release()
        await b.queue.claim(LANES, 10)
        await b.queue.release()
        (third,) = await a.queue.claim(LANES, 10)
        assert not await a.queue.complete(done(first, "first"))
        assert await a.queue.complete(done(third, "third"))
        assert (await b.tasks.get(third.id)).result == {"text": "third"}


async def test_a_task_that_ran_when_its_owner_was_lost_counts_it(settings: BackSettings) -> None:
    clock = Clock()
    async with two(settings, clock) as (a, b):
        await a.queue.add(owned(a.queue, 1))
        running = dataclasses.replace(owned(a.queue, 2, TaskState.RUNNING), runs=4)
        await a.queue.add(running)
        clock.time += LEASE * 1.1
        await b.queue.extend()
        claimed = await b.queue.claim(LANES, 10)
        assert [(task.interruptions, task.runs) for task in claimed] == [(0, 0), (1, 4)]
        b.queue.update(dataclasses.replace(claimed[1], state=TaskState.RUNNING, runs=5))
        await b.queue.release()  # as at its next start
        claimed = await a.queue.claim(LANES, 10)
        assert [(task.interruptions, task.runs) for task in claimed] == [(0, 0), (2, 5)]


async def test_one_task_is_added_for_one_key(settings: BackSettings) -> None:
    async with two(settings, Clock()) as (a, b):
        records = [
            dataclasses.replace(owned(stores.queue, number), idempotency_key="k", fingerprint=str(number))
            for number, stores in enumerate((a, b) * 5)
        ]
        assert await a.tasks.with_key(records[0]) is None
        found = await asyncio.gather(
            *((a, b)[number % 2].queue.add_once(item) for number, item in enumerate(records))
        )
        assert len({item.id for item in found}) == 1
        assert found[0] in records
        assert await b.tasks.list() == [found[0]]
        assert await b.tasks.with_key(records[0]) == found[0]
        other = dataclasses.replace(owned(a.queue, 20), idempotency_key="other")
        assert await a.queue.add_once(other) == other


async def test_an_outcome_can_be_completed_again(stores: Stores) -> None:
    task = owned(stores.queue, 1)
    await stores.queue.add(task)
    for _ in range(2):
        assert await stores.queue.complete(done(task, "once"))


async def test_released_tasks_are_free_at_once(settings: BackSettings) -> None:
    async with two(settings, Clock()) as (a, b):
        await a.queue.add(owned(a.queue, 1))
        a.queue.update(owned(a.queue, 1, TaskState.RUNNING))  # not written yet
        await b.queue.add(owned(b.queue, 2))
        await a.queue.add(owned(a.queue, 3, TaskState.DONE))
        assert await a.queue.release() == 1
        (claimed,) = await b.queue.claim(LANES, 10)
        assert (claimed.id, claimed.state, claimed.started) == ("task-001", TaskState.QUEUED, None)


async def test_a_cancellation_reaches_the_owner(settings: BackSettings) -> None:
    async with two(settings, Clock()) as (a, b):
        for number in (1, 2):
            await a.queue.add(owned(a.queue, number))
        await a.queue.add(owned(a.queue, 3, TaskState.DONE))
        for number in (1, 3):
            await b.queue.cancel(f"task-{number:03}")
        assert await a.queue.cancel_requests() == ["task-001"]
        assert await b.queue.cancel_requests() == []
        await a.queue.release()
        claimed = await b.queue.claim(LANES, 10)
        assert [task.cancel_requested for task in claimed] == [True, False]


async def test_leases_of_dead_workers_are_forgotten(settings: BackSettings) -> None:
    clock = Clock()
    async with two(settings, clock) as (a, b):
        await a.queue.add(owned(a.queue, 1))
        clock.time += timedelta(days=2)
        await b.queue.extend()
        async with b.database.read() as connection:
            leases = await connection.exec_driver_sql("SELECT id FROM workers")
            assert list(leases.scalars()) == ["b"]
        assert len(await b.queue.claim(LANES, 10)) == 1
