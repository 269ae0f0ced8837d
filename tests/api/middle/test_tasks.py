"""The Task Manager: one record and one outcome per task, whatever happens to it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from api.back.settings import BackSettings
from api.back.store.database import Database
from api.back.store.records import TaskError, TaskRecord, TaskState
from api.back.store.task_queue import TaskQueue
from api.back.store.task_writer import TaskWriter
from api.back.store.tasks import TaskStore
from api.caller import Caller, Limits, Scope
from api.errors import (
    ApiError,
    Cancelled,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    ServerFault,
    StoreUnavailable,
    Unavailable,
)
from api.middle import tasks as module
from api.middle.dispatcher import LONGEST_WAIT_SECONDS, Dispatcher, waiting_time
from api.middle.handlers.base import Handler, Lane
from api.middle.job import Job, Outcome
from api.middle.leases import LeaseKeeper
from api.middle.metrics import Metrics
from api.middle.new_records import LONGEST_LIST, LONGEST_TEXT, new_id, shortened
from api.middle.schemas.base import ModelParameters
from api.middle.tasks import TaskManager
from runtime.drain_rate import UNMEASURED_SECONDS, DrainRate
from tests.api.asgi import until
from tests.api.conftest import Run
from tests.api.fakes import FakeQueue, FakeTasks

CALLER = Caller("192.0.2.1")


class EchoParameters(ModelParameters):
    text: str = "hello"


class Echo(BaseModel):
    text: str


class EchoHandler(Handler[EchoParameters, Echo]):
    task_type: ClassVar[str] = "echo"
    parameters = EchoParameters
    answer = Echo

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.error: BaseException | None = None
        self.running = 0
        self.begun = 0
        self.order: list[str] = []  # texts, as they were begun

    async def run(self, parameters: EchoParameters, job: Job) -> Echo:
        self.running += 1
        self.begun += 1
        self.order.append(parameters.text)
        try:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            return Echo(text=parameters.text)
        finally:
            self.running -= 1


class SlowHandler(EchoHandler):
    task_type: ClassVar[str] = "slow"
    lane: ClassVar[Lane] = Lane.CONVERSIONS
    scope: ClassVar[Scope] = Scope.MODELS_WRITE


class Desk:
    """A manager and a dispatcher over one slow handler, and another one in a second lane."""

    def __init__(
        self,
        fake: FakeTasks | None = None,
        handler: EchoHandler | None = None,
        real: tuple[TaskQueue, TaskStore] | None = None,
        worker: str = "here",
        **limits: int,
    ) -> None:
        self.handler = handler or EchoHandler()
        self.fake = fake or FakeTasks()
        self.fake_queue = FakeQueue(self.fake, worker)
        self.queue, self.store = real or (self.fake_queue, self.fake)
        self.slow = SlowHandler()
        handlers = {"echo": self.handler, "slow": self.slow}
        workers = limits.pop("workers", 2)
        self.limits = Limits(max_queued=limits.pop("max_queued_per_caller", None))
        bounds = {"max_in_flight": 4, "max_queued": 4, **limits}
        self.tasks = TaskManager(self.queue, self.store, handlers, Metrics(), **bounds)
        self.dispatcher = Dispatcher(self.tasks, {Lane.MODELS: workers, Lane.CONVERSIONS: 1})
        self.leases = LeaseKeeper(self.queue, self.tasks)

    async def restart(self) -> int:
        """As the façade begins, over what its last run left; returns how many tasks wait."""
        await self.queue.release()
        await self.leases.beat()
        return self.tasks.admission.num_queued

    async def take_up(self) -> int:
        """Claim what has no owner; returns how many tasks wait."""
        await self.leases.take_up()
        return self.tasks.admission.num_queued

    async def drain(self, seconds: float) -> None:
        await self.dispatcher.stop()
        await self.tasks.drain(seconds)
        await self.leases.stop()

    def start(self, **parameters: Any) -> Job:
        job = self.tasks.admit("echo", EchoParameters(**parameters), CALLER)
        self.dispatcher.run(job)
        return job

    async def enqueue(self, task_type: str = "echo", key: str = "", **parameters: Any) -> Job:
        caller = Caller("192.0.2.1", key, limits=self.limits)
        return await self.tasks.enqueue(task_type, EchoParameters(**parameters), caller)


def outcome(desk: Desk, job: Job) -> list[str]:
    """The states of the job's record, after checking that it closed once and left nothing behind."""
    assert desk.tasks.active(job.id) is None
    states: list[str] = desk.fake.states(job.id)
    assert sum(TaskState(state).finished for state in states) == 1
    return states


def test_a_synchronous_task(run: Run) -> None:
    async def test() -> None:
        desk = Desk()
        desk.handler.gate.set()
        job = desk.start(text="x" * 1000, model="m")
        assert await job.answer() == Echo(text="x" * 1000)
        assert outcome(desk, job) == ["running", "done"]
        record = await desk.tasks.get(job.id)
        assert (record.caller, record.type, record.model, record.asynchronous) == (
            CALLER,
            "echo",
            "m",
            False,
        )
        assert record.result is None
        assert len(record.parameters["text"]) < 300
        assert record.created <= (record.started or record.created) <= (record.finished or record.created)

    run(test)


def test_an_asynchronous_task_keeps_parameters_and_result(run: Run) -> None:
    async def test() -> None:
        desk = Desk()
        desk.handler.gate.set()
        desk.dispatcher.start()
        job = await desk.enqueue(text="x" * 1000)
        await job.answer()
        assert outcome(desk, job) == ["queued", "running", "done"]
        record = await desk.store.get(job.id)
        assert record.parameters == {"text": "x" * 1000}
        assert record.result == {"text": "x" * 1000}
        await desk.dispatcher.stop()

    run(test)


@pytest.mark.parametrize(
    ("error", "state", "kind"),
    [
        (InvalidInput.of("text", "bad"), "failed", InvalidInput),
        (NotFound("no model"), "failed", NotFound),
        (Cancelled("the engine was asked to"), "cancelled", Cancelled),
        (DeadlineExceeded("late"), "expired", DeadlineExceeded),
        (ServerFault("broken"), "failed", ServerFault),
        (KeyError("inner detail"), "failed", ServerFault),
        (asyncio.CancelledError(), "cancelled", Cancelled),
    ],
)
def test_every_failure_is_an_outcome(
    run: Run, error: BaseException, state: str, kind: type[ApiError]
) -> None:
    async def test() -> None:
        desk = Desk()
        desk.handler.error = error
        desk.handler.gate.set()
        job = desk.start()
        with pytest.raises(ApiError) as raised:
            await job.answer()
        assert type(raised.value) is kind
        assert "inner" not in str(raised.value)
        assert outcome(desk, job)[-1] == state
        assert (await desk.store.get(job.id)).error == TaskError.of(raised.value)

    run(test)


def test_an_abort_before_the_runner_s_first_step(run: Run) -> None:
    async def test() -> None:
        desk = Desk()
        job = desk.start()
        job.abort(Cancelled("gone"))
        job.abort(Unavailable("too late to matter"))
        with pytest.raises(Cancelled, match="gone"):
            await job.answer()
        assert outcome(desk, job)[-1] == "cancelled"
        assert desk.handler.running == 0

    run(test)


def test_permits_come_back(run: Run) -> None:
    async def test() -> None:
        desk = Desk(max_in_flight=2)
        jobs = [desk.start(), desk.start()]
        with pytest.raises(Overloaded, match="2 tasks are in flight"):
            desk.start()
        jobs[0].abort(Cancelled("gone"))
        with pytest.raises(Cancelled):
            await jobs[0].answer()
        desk.handler.gate.set()
        await desk.start().answer()
        await jobs[1].answer()

    run(test)


def test_a_refusal_says_when_there_will_be_room(run: Run) -> None:
    """Computed from the speed at which tasks left, of which there is none yet at first."""

    async def test() -> None:
        now = 0.0
        desk = Desk(max_in_flight=2, max_queued=20)
        rates = [DrainRate(lambda: now), DrainRate(lambda: now)]
        desk.tasks.admission._ended, desk.tasks.waiting[Lane.MODELS].drained = rates
        for _ in range(2):
            desk.start()
        for _ in range(20):
            await desk.enqueue()
        with pytest.raises(Overloaded) as caught:
            desk.start()
        assert caught.value.retry_after == UNMEASURED_SECONDS
        for _ in range(4):
            rates[0].note(0.02)
            rates[1].note(0.25)
            now += 1
        with pytest.raises(Overloaded) as caught:
            desk.start()
        assert caught.value.retry_after == pytest.approx(0.2 / 0.02)
        with pytest.raises(Overloaded) as caught:
            await desk.enqueue()
        assert caught.value.retry_after == pytest.approx(2 / 0.25)

    run(test)


def test_a_task_whose_turn_would_come_too_late_is_refused_at_once(run: Run) -> None:
    async def test() -> None:
        now = 0.0
        desk = Desk(max_queued=100)
        queue = desk.tasks.waiting[Lane.MODELS]
        queue.drained = DrainRate(lambda: now)
        for _ in range(20):
            await desk.enqueue(key="a", deadline_ms=60_000)  # nothing is measured yet: nothing is refused
        queue.drained.note(2)
        now = 1.0
        for _ in range(20):
            await desk.enqueue(key="a")
        with pytest.raises(Overloaded, match=r"in about 20\.0 s, after its deadline of 5000 ms") as caught:
            await desk.enqueue(key="a", deadline_ms=5000)
        assert caught.value.retry_after == 15.0
        await desk.enqueue(key="b", deadline_ms=5000)  # its turn is the second

    run(test)


def test_deadlines_hold_for_running_and_waiting_tasks(run: Run) -> None:
    async def test() -> None:
        desk = Desk()
        for job in (desk.start(deadline_ms=10), await desk.enqueue(deadline_ms=10)):
            remaining = job.remaining_ms()
            assert remaining is not None
            assert 1 <= remaining <= 10
            with pytest.raises(DeadlineExceeded, match="10 ms"):
                await job.answer()
            assert outcome(desk, job)[-1] == "expired"
        assert desk.handler.running == 0
        desk.handler.gate.set()
        desk.dispatcher.start()  # passes over the task that expired in the queue
        job = await desk.enqueue()
        await job.answer()
        await desk.dispatcher.stop()

    run(test)


def test_workers_bound_what_runs(run: Run) -> None:
    async def test() -> None:
        desk = Desk(max_queued=10)
        desk.dispatcher.start()
        jobs = [await desk.enqueue() for _ in range(6)]
        await until(lambda: desk.handler.running >= 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert desk.handler.running == 2
        desk.handler.gate.set()
        for job in jobs:
            await job.answer()
        await desk.dispatcher.stop()

    run(test)


def test_a_lane_that_is_full_holds_up_no_other(run: Run) -> None:
    async def test() -> None:
        desk = Desk(max_queued=10)
        desk.dispatcher.start()
        slow = [await desk.enqueue("slow") for _ in range(5)]
        desk.handler.gate.set()
        for _ in range(3):
            await (await desk.enqueue()).answer()
        assert [job.record.state.value for job in slow] == ["running"] + ["queued"] * 4
        assert desk.slow.running == 1
        desk.slow.gate.set()
        for job in slow:
            await job.answer()
        await desk.dispatcher.stop()

    run(test)


def test_recovery(run: Run) -> None:
    async def test() -> None:
        store = FakeTasks()

        def left(state: TaskState, asynchronous: bool, task_type: str = "echo", **parameters: Any) -> str:
            record = TaskRecord(
                new_id(), task_type, state, asynchronous, CALLER, None, {"text": "again", **parameters}
            )
            store.put(record)
            return record.id

        synchronous = left(TaskState.RUNNING, False)
        queued = left(TaskState.QUEUED, True)
        running = left(TaskState.RUNNING, True)
        unknown = left(TaskState.QUEUED, True, "divine")
        unreadable = left(TaskState.QUEUED, True, colour="red")
        desk = Desk(store)
        assert await desk.restart() == 2
        for task_id in (synchronous, unknown, unreadable):
            record = await store.get(task_id)
            assert record.state is TaskState.FAILED
            assert record.finished is not None
        assert (await store.get(synchronous)).error == TaskError(
            "server-fault", "the façade restarted while the task ran"
        )
        jobs = [desk.tasks.active(task_id) for task_id in (queued, running)]
        desk.handler.gate.set()
        desk.dispatcher.start()
        for job in jobs:
            assert job is not None
            await job.answer()
            assert (await store.get(job.id)).result == {"text": "again"}
        await desk.dispatcher.stop()

    run(test)


def test_a_stop_fails_requests_and_leaves_the_queue_for_the_next_start(run: Run) -> None:
    async def test() -> None:
        desk = Desk()
        desk.dispatcher.start()
        waiting = [await desk.enqueue() for _ in range(3)]
        await until(lambda: desk.handler.running >= 2)
        request = desk.start()
        await desk.drain(0.01)
        with pytest.raises(Unavailable, match="stopping"):
            await request.answer()
        assert (await desk.store.get(request.id)).state is TaskState.FAILED
        assert [(await desk.store.get(job.id)).state for job in waiting] == [TaskState.QUEUED] * 3
        assert desk.handler.running == 0
        with pytest.raises(Unavailable):
            desk.start()
        with pytest.raises(Unavailable):
            await desk.enqueue()
        assert await Desk(desk.fake).restart() == 3

    run(test)


def test_a_queued_task_waits_for_a_model_server_that_is_away(run: Run) -> None:
    async def test() -> None:
        desk = Desk()
        desk.dispatcher.start()
        desk.handler.error = Unavailable("m/1 is loading", retry_after=0.001)
        desk.handler.gate.set()
        job = await desk.enqueue(text="hello")
        await until(lambda: desk.handler.begun >= 3)
        request = desk.start()
        with pytest.raises(Unavailable):  # its caller can do that
            await request.answer()
        desk.handler.error = None
        assert await job.answer() == Echo(text="hello")
        assert outcome(desk, job) == ["queued", *["running"] * job.record.runs, "done"]
        assert job.record.runs >= 4
        await desk.dispatcher.stop()

    run(test)


@pytest.mark.parametrize(("sent", "retry_after"), [(True, 0.001), (False, 3600.0)])
def test_a_queued_task_is_not_tried_again_without_end(run: Run, sent: bool, retry_after: float) -> None:
    async def test() -> None:
        desk = Desk()
        desk.dispatcher.start()
        desk.handler.error = Unavailable("m/1 died", retry_after=retry_after)
        job = await desk.enqueue()
        await until(lambda: desk.handler.running)
        if sent:
            job.emit("output", {"text": "half an ans"})
        desk.handler.gate.set()
        with pytest.raises(Unavailable):
            await job.answer()
        assert desk.handler.begun == 1
        assert outcome(desk, job)[-1] == "failed"
        await desk.dispatcher.stop()

    run(test)


class DyingHandler(EchoHandler):
    """Whose model server dies in the moment in which the task is cancelled."""

    async def run(self, parameters: EchoParameters, job: Job) -> Echo:
        try:
            return await super().run(parameters, job)
        except asyncio.CancelledError:
            raise Unavailable("m/1 died", retry_after=0.001) from None


def test_a_task_that_is_cancelled_as_its_server_dies_is_not_begun_anew(run: Run) -> None:
    async def test() -> None:
        desk = Desk(handler=DyingHandler())
        desk.dispatcher.start()
        job = await desk.enqueue()
        await until(lambda: desk.handler.running)
        record = await asyncio.wait_for(desk.tasks.cancel(job.id), 5)
        assert record.state is TaskState.CANCELLED
        assert desk.handler.begun == 1
        assert outcome(desk, job)[-1] == "cancelled"
        await desk.dispatcher.stop()

    run(test)


def test_a_drain_waits_for_what_ends_in_time(run: Run) -> None:
    async def test() -> None:
        desk = Desk()
        job = desk.start()
        draining = asyncio.ensure_future(desk.tasks.drain(10))
        await asyncio.sleep(0)
        desk.handler.gate.set()
        await draining
        assert outcome(desk, job)[-1] == "done"

    run(test)


def test_followers_see_every_event_and_the_end(run: Run) -> None:
    async def test() -> None:
        desk = Desk()
        job = desk.start()

        async def follow(waits: Callable[[], Any]) -> list[int]:
            seen: list[int] = []
            while events := await job.after(len(seen)):
                seen += [event.data["n"] for event in events]
                await waits()
            return seen

        followers = [asyncio.ensure_future(follow(lambda: asyncio.sleep(0))) for _ in range(3)]
        for number in range(10):
            job.emit("progress", {"n": number})
            if number % 3 == 0:
                await asyncio.sleep(0)
        assert await job.after(10, seconds=0.001) == []
        desk.handler.gate.set()
        await job.answer()
        assert await asyncio.gather(*followers) == [list(range(10))] * 3

    run(test)


def test_ids_are_in_order_of_time() -> None:
    ids = [new_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert [task_id[:11] for task_id in ids] == sorted(task_id[:11] for task_id in ids)


def test_long_parameters_are_cut() -> None:
    cut = shortened({"prompt": ["x" * 500] * 20, "n": 1})
    assert cut["n"] == 1
    assert cut["prompt"][-1] == "… (20 items)"
    assert len(cut["prompt"]) == LONGEST_LIST + 1
    assert cut["prompt"][0] == "x" * LONGEST_TEXT + "… (500 characters)"


def test_waiting_tasks_go_by_priority_and_then_by_turns_of_their_callers(run: Run) -> None:
    async def test() -> None:
        desk = Desk(max_queued=100, workers=1)
        for number in range(30):
            await desk.enqueue(text=f"flood {number}", key="a")
        for number in range(3):
            await desk.enqueue(text=f"single {number}", key="b")
        jobs = [
            await desk.enqueue(text="late", key="b", priority=100),
            await desk.enqueue(text="urgent", key="c", priority=-100),
        ]
        desk.handler.gate.set()
        desk.dispatcher.start()
        for job in jobs:
            await job.answer()
        order = desk.handler.order
        assert (order[0], order[-1]) == ("urgent", "late")
        assert order[1:7] == ["flood 0", "single 0", "flood 1", "single 1", "flood 2", "single 2"]
        await desk.dispatcher.stop()

    run(test)


def test_turns_are_measured_in_what_the_tasks_cost(run: Run) -> None:
    async def test() -> None:
        desk = Desk(max_queued=100, workers=1)
        for number in range(8):
            await desk.enqueue(text="long " * 100, key="a")
            await desk.enqueue(text=f"{number}", key="b")
        desk.handler.gate.set()
        desk.dispatcher.start()
        await until(lambda: len(desk.handler.order) == 16)
        assert desk.handler.order[1:9] == [f"{number}" for number in range(8)]
        await desk.dispatcher.stop()

    run(test)


def test_a_task_needs_the_scope_of_its_type(run: Run) -> None:
    async def test() -> None:
        desk = Desk()
        caller = Caller("192.0.2.1", scopes=frozenset({Scope.TASKS, Scope.INFER}))
        with pytest.raises(Forbidden, match="needs the scope models:write"):
            await desk.tasks.enqueue("slow", EchoParameters(), caller)
        assert desk.fake.records == {}
        await desk.tasks.enqueue("echo", EchoParameters(), caller)

    run(test)


def test_a_caller_s_waiting_tasks_are_bounded(run: Run) -> None:
    async def test() -> None:
        desk = Desk(max_queued=5, max_queued_per_caller=3)
        own = await asyncio.gather(*(desk.enqueue(key="a") for _ in range(5)), return_exceptions=True)
        assert [isinstance(job, Job) for job in own] == [True] * 3 + [False] * 2
        with pytest.raises(
            Overloaded, match="3 of your tasks are waiting, which is the limit for one caller"
        ):
            await desk.enqueue("slow", key="a")
        for _ in range(2):
            await desk.enqueue(key="b")
        with pytest.raises(Overloaded, match="5 tasks are waiting, which is the limit"):
            await desk.enqueue(key="c")
        assert isinstance(own[0], Job)
        await desk.tasks.cancel(own[0].id)  # it leaves the queue at once
        assert len(desk.tasks.waiting[Lane.MODELS]) == 4
        await desk.enqueue(key="a")

    run(test)


def test_recovered_tasks_keep_priority_and_caller(run: Run) -> None:
    async def test() -> None:
        before = Desk(max_queued=100)
        for number in range(5):
            await before.enqueue(text=f"flood {number}", key="a")
        await before.enqueue(text="single", key="b")
        await before.enqueue(text="urgent", key="a", priority=-100)
        desk = Desk(before.fake, max_queued=100, workers=1)
        assert await desk.restart() == 7
        desk.handler.gate.set()
        desk.dispatcher.start()
        await until(lambda: len(desk.handler.order) == 7)
        assert desk.handler.order[:4] == ["urgent", "flood 0", "single", "flood 1"]
        await desk.dispatcher.stop()

    run(test)


LOCKED = StoreUnavailable("the database is locked by another process: lmaas.db")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(module, "LAST_COMMIT_SECONDS", 0.01)


@pytest.mark.usefixtures("quick")
def test_nobody_hears_an_outcome_that_cannot_be_recorded(run: Run) -> None:
    async def test() -> None:
        desk = Desk()
        desk.dispatcher.start()
        job = await desk.enqueue()
        waiting = await desk.enqueue("slow"), await desk.enqueue("slow")
        await until(lambda: desk.handler.running and desk.slow.running)
        desk.fake.failure = LOCKED
        desk.handler.gate.set()
        await until(lambda: job.held_up)
        assert desk.handler.running == 0
        assert job.outcome is None
        assert (await desk.tasks.get(job.id)).state is TaskState.RUNNING
        for one in (job, *waiting):
            with pytest.raises(StoreUnavailable, match="locked by another process"):
                await desk.tasks.cancel(one.id)
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            await desk.enqueue()
        assert (await desk.start().answer()) == Echo(text="hello")
        desk.fake.failure = None
        assert await job.answer() == Echo(text="hello")
        assert outcome(desk, job) == ["queued", "running", "done"]
        for one in waiting:
            with pytest.raises(Cancelled):
                await one.answer()
            assert outcome(desk, one)[-1] == "cancelled"
        await desk.dispatcher.stop()

    run(test)


@pytest.mark.usefixtures("quick")
def test_workers_wait_where_too_many_outcomes_cannot_be_recorded(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CLOSING", 3)

    async def test() -> None:
        desk = Desk(max_queued=100)
        jobs = [await desk.enqueue() for _ in range(20)]
        desk.fake.failure = LOCKED
        desk.handler.gate.set()
        desk.dispatcher.start()
        await until(lambda: sum(job.held_up is not None for job in jobs) >= 3)
        for _ in range(50):
            await asyncio.sleep(0)
        assert desk.handler.begun <= 5  # the bound, and one for each other worker
        desk.fake.failure = None
        for job in jobs:
            await job.answer()
        await desk.dispatcher.stop()

    run(test)


@pytest.mark.usefixtures("quick")
def test_a_stop_leaves_open_what_cannot_be_recorded(run: Run) -> None:
    async def test() -> None:
        desk = Desk()
        desk.dispatcher.start()
        job = await desk.enqueue()
        await until(lambda: desk.handler.running)
        desk.fake.failure = LOCKED
        desk.handler.gate.set()
        await until(lambda: job.held_up)
        await desk.drain(0.01)
        with pytest.raises(Unavailable, match="stopping"):
            await job.answer()
        assert job.record.state is TaskState.QUEUED
        desk.fake.failure = None
        again = Desk(desk.fake)
        assert await again.restart() == 1
        again.handler.gate.set()
        again.dispatcher.start()
        taken = again.tasks.active(job.id)
        assert taken is not None
        assert await taken.answer() == Echo(text="hello")
        await again.dispatcher.stop()

    run(test)


def test_an_outcome_is_on_disk_before_it_is_published(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BackSettings(home=tmp_path)
    published: list[tuple[str, str | None]] = []
    close = Job.close

    def checked(job: Job, ended: Outcome, record: TaskRecord) -> None:
        with sqlite3.connect(tmp_path / "lmaas.db") as other:
            row = other.execute("SELECT state, result FROM tasks WHERE id = ?", (job.id,)).fetchone()
        other.close()
        assert row[0] == ended.state.value
        published.append((row[0], row[1]))
        close(job, ended, record)

    monkeypatch.setattr(Job, "close", checked)

    async def test() -> None:
        async with (
            Database.open(settings.database) as database,
            TaskWriter.open(database) as writer,
        ):
            queue = TaskQueue(database, writer, "here")
            store = TaskStore(database, writer, timedelta(days=1))
            desk = Desk(real=(queue, store), max_queued=100)
            desk.dispatcher.start()
            jobs = [await desk.enqueue(text=str(number)) for number in range(10)]
            await desk.tasks.cancel(jobs[9].id)
            desk.handler.gate.set()
            for job in jobs[:9]:
                await job.answer()
            await desk.dispatcher.stop()
        assert published[0] == ("cancelled", None)
        assert sorted(published[1:]) == [("done", f'{{"text": "{number}"}}') for number in range(9)]

    run(test)


def test_waits_grow_and_are_not_the_same_for_all() -> None:
    found = [{waiting_time(failures, 1.0) for _ in range(50)} for failures in range(10)]
    assert found[0] == {1.0}  # as the failure asked for
    assert 1.0 < min(found[3]) < max(found[3]) <= 4.0
    assert max(max(waits) for waits in found) <= LONGEST_WAIT_SECONDS
