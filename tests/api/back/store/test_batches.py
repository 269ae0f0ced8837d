"""Batches that several façades share: claims, leases, compare-and-set; on both databases."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta

import pytest

from api.back.store import batches as module
from api.back.store.batches import BatchStore
from api.back.store.database import Database
from api.back.store.records import BatchError, BatchRecord, BatchResult, BatchState, now
from api.back.store.task_queue import LEASE, TaskQueue
from api.back.store.task_writer import TaskWriter
from api.caller import Caller, Limits, Scope
from api.errors import Conflict, NotFound

pytestmark = pytest.mark.anyio
ME = Caller("192.0.2.1", "k", frozenset({Scope.INFER}), Limits(models=frozenset({"a", "b"})))
BEGIN = now()


def batch(number: int = 0, caller: Caller = ME) -> BatchRecord:
    created = BEGIN + timedelta(seconds=number)
    return BatchRecord(
        f"batch_{number}", caller, "/v1/score", "24h", "file-1", created + timedelta(days=1), created
    )


class Clock:
    """The clock of all façades."""

    def __init__(self) -> None:
        self.moment = BEGIN

    def __call__(self) -> datetime:
        return self.moment


async def test_a_record_comes_back_as_it_was(database_url: str) -> None:
    async with Database.open(database_url) as database:
        store = BatchStore(database, "here")
        record = dataclasses.replace(
            batch(), notes={"a": "b"}, errors=(BatchError("c", "m", 3, "p"), BatchError("c", "m"))
        )
        await store.add(record)
        assert await store.get(record.id, ME.fairness_key) == record == await store.get(record.id, None)
        for ask in (store.get, store.cancel):
            with pytest.raises(NotFound):
                await ask(record.id, "other")
        assert await store.count_open(ME.fairness_key) == await store.count_open(None) == 1
        assert await store.count_open("other") == 0


async def test_one_façade_works_on_a_batch_as_long_as_its_lease_lasts(database_url: str) -> None:
    clock = Clock()
    async with Database.open(database_url) as database, TaskWriter.open(database) as writer:
        here, there = (BatchStore(database, name, clock) for name in ("here", "there"))
        lease = TaskQueue(database, writer, "here", clock=clock)
        await lease.extend()
        await here.add(batch(1))
        await here.add(batch(0))
        (first,) = await here.claim([], 1)
        assert (first.id, first.worker, first.attempt) == ("batch_0", "here", 1)
        (second,) = await there.claim([], 5)
        assert second.id == "batch_1"
        assert await here.claim([first.id, second.id], 5) == []
        clock.moment += LEASE + timedelta(seconds=1)
        taken = await there.claim([second.id], 5)
        assert [(record.id, record.attempt) for record in taken] == [("batch_0", 2)]
        assert await here.states([first.id]) == {}
        assert await here.current(first) is None
        assert await here.advance(first, BatchState.IN_PROGRESS) is None
        assert not await here.add_results(first, [BatchResult(1, False, "x")])
        assert await there.answered(taken[0]) == (set(), 0)


async def test_a_new_run_of_a_façade_takes_up_its_own_batches(database_url: str) -> None:
    async with Database.open(database_url) as database:
        store = BatchStore(database, "here")
        await store.add(batch())
        await store.claim([], 5)
        assert [record.attempt for record in await store.claim([], 5)] == [2]
        await store.release()
        assert [record.worker for record in await BatchStore(database, "there").claim([], 5)] == ["there"]


async def test_a_cancellation_is_not_overwritten(database_url: str) -> None:
    async with Database.open(database_url) as database:
        store = BatchStore(database, "here")
        await store.add(batch())
        (record,) = await store.claim([], 1)
        assert (await store.cancel(record.id, None)).state is BatchState.CANCELLING
        assert await store.advance(record, BatchState.IN_PROGRESS, total=3) is None
        current = await store.current(record)
        assert current is not None
        assert (current.state, current.total) == (BatchState.CANCELLING, 0)
        ended = await store.advance(current, BatchState.CANCELLED)
        assert ended is not None
        assert set(ended.times) == {"cancelling", "cancelled"}
        assert (await store.cancel(record.id, None)).state is BatchState.CANCELLED


async def test_answers_are_counted_and_kept_until_the_end(database_url: str) -> None:
    async with Database.open(database_url) as database:
        store = BatchStore(database, "here")
        await store.add(batch())
        (record,) = await store.claim([], 1)
        results = [BatchResult(number, number % 2 == 0, f"line {number}") for number in range(1, 6)]
        assert await store.add_results(record, results[:3])
        assert await store.add_results(record, results[3:])
        moved = await store.advance(record, BatchState.FINALIZING)  # of a record with older counts
        assert moved is not None
        current = await store.current(moved)
        assert current is not None
        assert (current.completed, current.failed) == (3, 2)
        assert await store.answered(current) == ({1, 2, 3, 4, 5}, 5 * len("line 1"))
        assert [result.number for result in await store.results(current, failed=False, after=1)] == [3, 5]
        assert [result.line for result in await store.results(current, failed=True)] == ["line 2", "line 4"]
        assert await store.advance(current, BatchState.COMPLETED, output_file="file-2") is not None
        assert await store.answered(current) == (set(), 0)
        with pytest.raises(Conflict, match="is completed"):
            await store.cancel(record.id, None)


async def test_old_batches_are_forgotten_when_they_are_over(database_url: str) -> None:
    async with Database.open(database_url) as database:
        store = BatchStore(database, "here")
        for number in range(3):
            await store.add(batch(number))
        first, second, _ = await store.claim([], 3)
        for record in (first, second):
            assert await store.advance(record, BatchState.FAILED) is not None
        assert await store.uses("file-1")
        assert await store.sweep(second.created) == 1
        assert [record.id for record in await store.list(ME.fairness_key, limit=5, after=None)] == [
            "batch_2",
            "batch_1",
        ]


async def test_pages_of_answers_are_bounded_in_size(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE_CHARACTERS", 10)
    async with Database.open(database_url) as database:
        store = BatchStore(database, "here")
        await store.add(batch())
        (record,) = await store.claim([], 1)
        lines = ["12345", "12345", "1", "x" * 50, "1"]
        await store.add_results(
            record, [BatchResult(number, False, line) for number, line in enumerate(lines, start=1)]
        )
        pages, after = [], 0
        while page := await store.results(record, failed=False, after=after):
            after = page[-1].number
            pages.append([result.number for result in page])
        assert pages == [[1, 2], [3], [4], [5]]
