"""Two façades on one queue in a real database: one takes over from the other, and cancels at the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from api.back.store import changes
from api.back.store.database import Database
from api.back.store.records import TaskState
from api.back.store.task_queue import TaskQueue
from api.back.store.task_writer import TaskWriter
from api.back.store.tasks import TaskStore
from api.middle.following import BEGUN_ANEW, follow
from api.middle.job import Event, Job
from api.middle.leases import LeaseKeeper
from bench.chaos.services import Postgres
from tests.api.asgi import until
from tests.api.conftest import Run
from tests.api.middle.test_tasks import Desk, Echo, EchoHandler, EchoParameters

LEASE = timedelta(seconds=1)
HEARTBEAT_SECONDS = 0.1


class ReportingHandler(EchoHandler):
    async def run(self, parameters: EchoParameters, job: Job) -> Echo:
        for number in range(3):
            job.emit("progress", {"done": number})
            await asyncio.sleep(0)
        answer = await super().run(parameters, job)
        job.emit("progress", {"done": 3})
        return answer


@asynccontextmanager
async def facade(url: str, worker: str, handler: EchoHandler | None = None) -> AsyncIterator[Desk]:
    async with (
        Database.open(url) as database,
        TaskWriter.open(database) as writer,
        TaskStore.open(database, writer, timedelta(days=7)) as store,
    ):
        queue = TaskQueue(database, writer, worker, lease=LEASE)
        desk = Desk(handler=handler, real=(queue, store), max_queued=100)
        desk.leases = LeaseKeeper(desk.queue, desk.tasks, HEARTBEAT_SECONDS)
        await desk.leases.start()
        desk.dispatcher.start()
        yield desk
        if desk.dispatcher._workers:
            await desk.drain(0)
        else:
            await desk.tasks.lose(desk.tasks.queued_or_running())


async def die(desk: Desk) -> None:
    """It does nothing more, as a process that was killed: it gives nothing back."""
    assert desk.leases._loop is not None
    desk.leases._loop.cancel()
    await desk.dispatcher.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/lmaas.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.create_database()


def test_the_tasks_of_a_dead_facade_are_done_by_the_other(url: str, run: Run) -> None:
    async def test() -> None:
        async with facade(url, "a") as a, facade(url, "b") as b:
            jobs = [await a.enqueue(text=str(number)) for number in range(30)]
            await until(lambda: a.handler.running == 2)
            await die(a)
            b.handler.gate.set()
            for job in jobs:
                await done(b, job.id)
            assert sorted(b.handler.order, key=int) == [str(number) for number in range(30)]
            a.handler.gate.set()  # what it still has in hand ends too late
            for job in jobs:
                record = await b.store.get(job.id)
                assert (record.owner, record.attempt) == ("b", 2)

    run(test)


async def done(desk: Desk, task_id: str) -> None:
    while (await desk.tasks.get(task_id)).state is not TaskState.DONE:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def test_a_task_that_ends_every_facade_is_given_up(url: str, run: Run) -> None:
    async def test() -> None:
        for number in range(1, 5):
            async with facade(url, "a") as a:
                if number == 1:
                    job = await a.enqueue(text="deadly")
                if number == 4:
                    record = await a.store.get(job.id)
                    assert (record.state, record.runs, record.interruptions) == (TaskState.FAILED, 3, 3)
                    assert record.error is not None
                    assert "3 times" in record.error.detail
                    assert a.handler.begun == 0
                else:
                    await until(lambda: a.handler.running == 1)
                    await a.queue.flush()
                    await die(a)

    run(test)


def test_a_task_is_cancelled_from_the_other_facade(url: str, run: Run) -> None:
    async def test() -> None:
        async with facade(url, "a") as a, facade(url, "b") as b:
            jobs = [await a.enqueue(text=str(number)) for number in range(3)]
            await until(lambda: a.handler.running == 2)  # so that one waits
            for job in jobs:
                assert (await b.tasks.cancel(job.id)).state is TaskState.CANCELLED
                assert job.record.state is TaskState.CANCELLED
            assert a.handler.running == 0

    run(test)


async def followed(desk: Desk, task_id: str) -> list[tuple[str, int]]:
    record = await desk.tasks.get(task_id)
    events = [event async for event in follow(desk.tasks, record, 60.0) if isinstance(event, Event)]
    return [(event.name, next(iter(event.data.values()))) for event in events]


def test_a_task_is_followed_at_the_other_facade(url: str, run: Run) -> None:
    async def test() -> None:
        async with facade(url, "a", ReportingHandler()) as a, facade(url, "b", ReportingHandler()) as b:
            job = await a.enqueue(text="hello")
            await until(lambda: a.handler.running == 1)
            early = asyncio.create_task(followed(b, job.id))
            a.handler.gate.set()
            await job.answer()
            assert await early == await followed(b, job.id) == [("progress", number) for number in range(4)]
            a.handler.gate.clear()
            job = await a.enqueue(text="begun anew")
            await until(lambda: a.handler.running == 1)
            await a.queue.flush()
            await die(a)
            b.handler.gate.set()
            assert await followed(b, job.id) == [
                *(("progress", number) for number in range(3)),
                (BEGUN_ANEW, 2),
                *(("progress", number) for number in range(4)),
            ]

    run(test)


def test_a_notice_comes_at_once(postgres: Postgres, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no look by itself would see the change in time."""
    url = postgres.create_database()
    monkeypatch.setattr(f"{__name__}.HEARTBEAT_SECONDS", 3600)
    monkeypatch.setattr(changes, "POLL_SECONDS_WITH_NOTICES", 3600)

    async def test() -> None:
        async with facade(url, "a", ReportingHandler()) as a, facade(url, "b") as b:
            await until(lambda: a.store.poll_seconds == b.store.poll_seconds == 3600)
            jobs = [await a.enqueue(text=str(number)) for number in range(2)]
            await until(lambda: a.handler.running == 2)
            following = asyncio.create_task(followed(b, jobs[0].id))
            assert (await b.tasks.cancel(jobs[0].id)).state is TaskState.CANCELLED
            assert len(await following) == 3
            await a.drain(0)  # gives back what it runs
            b.handler.gate.set()
            await done(b, jobs[1].id)

    run(test)
