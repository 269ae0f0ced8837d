"""The Task Manager: one record and one outcome per task, whatever happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from api.back.store.records import TaskRecord, TaskState
from api.errors import (
    ApiError,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Overloaded,
    ServerFault,
    Unavailable,
)
from api.middle.dispatcher import Dispatcher
from api.middle.handlers.base import Handler, Lane
from api.middle.job import Job
from api.middle.metrics import Metrics
from api.middle.router import Router
from api.middle.schemas.base import TaskParameters
from api.middle.tasks import LONGEST_LIST, LONGEST_TEXT, TaskManager, new_id, shortened
from tests.api.asgi import until
from tests.api.conftest import Run
from tests.api.fakes import FakeTasks


class EchoParameters(TaskParameters):
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

    async def run(self, parameters: EchoParameters, job: Job) -> Echo:
        self.running += 1
        self.begun += 1
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


class Desk:
    """A manager and a dispatcher over one slow handler, and another one in a lane of its own."""

    def __init__(
        self, store: FakeTasks | None = None, handler: EchoHandler | None = None, **limits: int
    ) -> None:
        self.handler = handler or EchoHandler()
        self.store = store or FakeTasks()
        self.slow = SlowHandler()
        router = Router([self.handler, self.slow])
        bounds = {"max_in_flight": 4, "max_queued": 4, **limits}
        self.tasks = TaskManager(self.store, router, Metrics(), **bounds)
        self.dispatcher = Dispatcher(self.tasks, router, {Lane.MODELS: 2, Lane.CONVERSIONS: 1})

    def start(self, **parameters: Any) -> Job:
        job = self.tasks.admit("echo", EchoParameters(**parameters), "192.0.2.1")
        self.dispatcher.run(job)
        return job

    async def enqueue(self, task_type: str = "echo", **parameters: Any) -> Job:
        return await self.tasks.enqueue(task_type, EchoParameters(**parameters), "192.0.2.1")


def outcome(desk: Desk, job: Job) -> list[str]:
    """The states of the job's record, after checking that it closed once and left nothing behind."""
    assert desk.tasks.active(job.id) is None
    states: list[str] = desk.store.states(job.id)
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
            "192.0.2.1",
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
        (InvalidInput.of("text", "bad"), "failed", "InvalidInput"),
        (NotFound("no model"), "failed", "NotFound"),
        (Cancelled("the engine was told to"), "cancelled", "Cancelled"),
        (DeadlineExceeded("late"), "expired", "DeadlineExceeded"),
        (ServerFault("broken"), "failed", "ServerFault"),
        (KeyError("inner detail"), "failed", "ServerFault"),
        (asyncio.CancelledError(), "cancelled", "Cancelled"),
    ],
)
def test_every_failure_is_an_outcome(run: Run, error: BaseException, state: str, kind: str) -> None:
    async def test() -> None:
        desk = Desk()
        desk.handler.error = error
        desk.handler.gate.set()
        job = desk.start()
        with pytest.raises(ApiError) as raised:
            await job.answer()
        assert type(raised.value).__name__ == kind
        assert "inner" not in str(raised.value)
        assert outcome(desk, job)[-1] == state
        kept = (await desk.store.get(job.id)).error
        assert kept is not None
        assert kept["error"] == kind

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
                new_id(), task_type, state, asynchronous, "192.0.2.1", None, {"text": "again", **parameters}
            )
            store.put(record)
            return record.id

        synchronous = left(TaskState.RUNNING, False)
        queued = left(TaskState.QUEUED, True)
        running = left(TaskState.RUNNING, True)
        unknown = left(TaskState.QUEUED, True, "divine")
        unreadable = left(TaskState.QUEUED, True, colour="red")
        desk = Desk(store)
        assert await desk.tasks.recover() == 2
        for task_id in (synchronous, unknown, unreadable):
            record = await store.get(task_id)
            assert record.state is TaskState.FAILED
            assert record.finished is not None
        assert (await store.get(synchronous)).error == {
            "error": "ServerFault",
            "detail": "the façade restarted while the task ran",
        }
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
        await desk.dispatcher.stop()
        await desk.tasks.drain(0.01)
        with pytest.raises(Unavailable, match="stopping"):
            await request.answer()
        assert (await desk.store.get(request.id)).state is TaskState.FAILED
        assert [(await desk.store.get(job.id)).state for job in waiting] == [TaskState.QUEUED] * 3
        assert desk.handler.running == 0
        with pytest.raises(Unavailable):
            desk.start()
        with pytest.raises(Unavailable):
            await desk.enqueue()
        assert await Desk(desk.store).tasks.recover() == 3

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
        assert outcome(desk, job) == ["queued", "running", "done"]
        await desk.dispatcher.stop()

    run(test)


@pytest.mark.parametrize(("told", "retry_after"), [(True, 0.001), (False, 3600.0)])
def test_a_queued_task_does_not_wait_in_vain(run: Run, told: bool, retry_after: float) -> None:
    async def test() -> None:
        desk = Desk()
        desk.dispatcher.start()
        desk.handler.error = Unavailable("m/1 died", retry_after=retry_after)
        job = await desk.enqueue()
        await until(lambda: desk.handler.running)
        if told:
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


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="no task type 'divine'; there are echo"):
        Router([EchoHandler()]).handler("divine")


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
