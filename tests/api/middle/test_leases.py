"""Two façades on one queue: tasks of one that is gone, and of one that is slow."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from api.back.store.records import TaskState
from api.errors import Cancelled, Unavailable
from api.middle import tasks as module
from api.middle.job import Job
from tests.api.asgi import until
from tests.api.conftest import Run
from tests.api.middle.test_tasks import LOCKED, Desk, Echo


def lose(desk: Desk, *jobs: Job) -> None:
    """The lease of a façade has ended, as far as these tasks are concerned: others may claim them."""
    for job in jobs:
        desk.fake.records[job.id] = dataclasses.replace(desk.fake.records[job.id], owner=None)


def test_a_drain_gives_the_waiting_tasks_to_the_others(run: Run) -> None:
    async def test() -> None:
        first = Desk()
        second = Desk(first.fake, worker="there")
        first.dispatcher.start()
        jobs = [await first.enqueue(text=str(number)) for number in range(4)]
        await until(lambda: first.handler.running == 2)
        assert await second.take_up() == 0  # they have their owner
        await first.drain(0.01)
        await second.leases.beat()
        assert second.tasks.admission.num_queued == 4
        second.handler.gate.set()
        second.dispatcher.start()
        await until(lambda: all(first.fake.records[job.id].state is TaskState.DONE for job in jobs))
        assert second.handler.order == ["0", "1", "2", "3"]
        await second.dispatcher.stop()

    run(test)


def test_a_façade_that_lost_its_lease_changes_no_outcome(run: Run) -> None:
    async def test() -> None:
        first = Desk()
        second = Desk(first.fake, worker="there")
        first.dispatcher.start()
        job = await first.enqueue(text="hello")
        await until(lambda: first.handler.running)
        lose(first, job)
        assert await second.take_up() == 1
        taken = second.tasks.active(job.id)
        assert taken is not None
        first.handler.gate.set()
        with pytest.raises(Unavailable, match="another server has taken over the task"):
            await job.answer()
        assert first.tasks.active(job.id) is None
        assert first.fake.records[job.id].state is TaskState.QUEUED
        second.handler.gate.set()
        second.dispatcher.start()
        assert await taken.answer() == Echo(text="hello")
        assert (await first.tasks.get(job.id)).state is TaskState.DONE
        for desk in (first, second):
            await desk.dispatcher.stop()

    run(test)


def test_a_task_that_comes_back_to_the_façade_that_runs_it_is_not_begun_anew(run: Run) -> None:
    async def test() -> None:
        desk = Desk()
        desk.dispatcher.start()
        job = await desk.enqueue(text="hello")
        await until(lambda: desk.handler.running)
        lose(desk, job)
        assert await desk.take_up() == 0
        desk.handler.gate.set()
        assert await job.answer() == Echo(text="hello")
        assert desk.handler.begun == 1
        assert (await desk.store.get(job.id)).attempt == 2
        await desk.dispatcher.stop()

    run(test)


def test_a_façade_whose_lease_ended_ends_what_others_claimed(run: Run) -> None:
    async def test() -> None:
        first = Desk(max_queued=10)
        second = Desk(first.fake, worker="there", max_queued=2)
        first.dispatcher.start()
        jobs = [await first.enqueue(text=str(number)) for number in range(4)]
        await until(lambda: first.handler.running == 2)
        request = first.start()
        lose(first, jobs[0], jobs[2])  # one runs, one waits
        assert await second.take_up() == 2
        first.fake_queue.held = False
        await first.leases.beat()
        for job in (jobs[0], jobs[2]):
            with pytest.raises(Unavailable, match="another server has taken over the task"):
                await job.answer()
            assert first.fake.records[job.id].owner == "there"
            assert first.fake.records[job.id].state is TaskState.QUEUED
        first.handler.gate.set()
        assert [await jobs[number].answer() for number in (1, 3)] == [Echo(text="1"), Echo(text="3")]
        assert await request.answer() == Echo(text="hello")
        assert sorted(first.handler.order) == ["0", "1", "3", "hello"]
        await first.dispatcher.stop()

    run(test)


def test_a_façade_claims_no_more_than_may_wait(run: Run) -> None:
    async def test() -> None:
        first = Desk(max_queued=10)
        for _ in range(6):
            await first.enqueue()
        await first.drain(0)
        second = Desk(first.fake, worker="there", max_queued=4)
        assert await second.take_up() == 4
        assert [record.owner for record in first.fake.records.values()] == ["there"] * 4 + [None] * 2

    run(test)


def test_a_task_of_another_façade_is_cancelled_at_its_next_heartbeat(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.001)

    async def test() -> None:
        first = Desk()
        second = Desk(first.fake, worker="there")
        first.dispatcher.start()
        job = await first.enqueue()
        await until(lambda: first.handler.running)
        cancelling = asyncio.ensure_future(second.tasks.cancel(job.id))
        await until(lambda: first.fake.records[job.id].cancel_requested)
        await first.leases.beat()
        assert (await cancelling).state is TaskState.CANCELLED
        with pytest.raises(Cancelled):
            await job.answer()
        await first.dispatcher.stop()

    run(test)


def test_a_task_that_lost_its_owner_while_it_was_to_be_cancelled(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CANCEL_SECONDS", 0.0)

    async def test() -> None:
        first = Desk()
        job = await first.enqueue()
        lose(first, job)
        second = Desk(first.fake, worker="there")
        assert (await second.tasks.cancel(job.id)).state is TaskState.QUEUED  # asked for, and no more
        await second.leases.beat()
        await until(lambda: first.fake.records[job.id].state is TaskState.CANCELLED)
        assert second.handler.begun == 0

    run(test)


def test_a_lease_is_kept_until_the_stop(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        desk = Desk()
        beats = 0

        async def extend() -> bool:
            nonlocal beats
            beats += 1
            if beats == 2:
                raise LOCKED
            if beats == 3:
                raise RuntimeError
            return True

        desk.queue.extend = extend  # type: ignore[method-assign]
        desk.leases._seconds = 0.001
        await desk.leases.start()
        await until(lambda: beats >= 5)  # a locked database does not end it, nor a defect
        await desk.leases.stop()
        stopped = beats
        await asyncio.sleep(0.01)
        assert beats == stopped
        assert "was not extended" in caplog.text

    run(test)
