"""Batches run in the gaps: few at once, by turns, and never in the way of a task."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from api.back.store.records import TaskRecord, TaskState
from api.caller import Caller
from api.errors import Unavailable
from api.middle.gaps import Gaps
from api.middle.job import Job
from api.middle.metrics import Metrics
from api.middle.schemas.generate import GenerateParameters, NextAnswer
from runtime.messages import Usage
from tests.api.asgi import until

pytestmark = pytest.mark.anyio
ANSWER = NextAnswer(model="m", version=1, precision="int8", candidates=[], usage=Usage(1, 0, 1))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Lines:
    """Jobs that run until they are let go."""

    def __init__(self, slots: int, most: int) -> None:
        self.metrics = Metrics()
        self.gaps = Gaps(slots, most, self.metrics)
        self.begun: list[str] = []
        self.running: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    def submit(self, *names: str, caller: str = "a", n: int = 1) -> None:
        for name in names:
            parameters = GenerateParameters(prompt="a", n=n)
            record = TaskRecord(
                name, "generate", TaskState.QUEUED, False, Caller(caller), None, {"prompt": "a"}
            )
            self._gates[name] = asyncio.Event()
            work = self.gaps.run(Job(record, parameters), lambda name=name: self._work(name))  # type: ignore[misc]
            self._tasks[name] = asyncio.create_task(work)

    async def _work(self, name: str) -> NextAnswer:
        self.begun.append(name)
        self.running.append(name)
        try:
            await self._gates[name].wait()
        finally:
            self.running.remove(name)
        if name.startswith("bad"):
            raise Unavailable("away")
        return ANSWER

    def let_go(self, name: str) -> asyncio.Task[Any]:
        self._gates[name].set()
        return self._tasks[name]

    def cancel(self, name: str) -> asyncio.Task[Any]:
        self._tasks[name].cancel()
        return self._tasks[name]

    async def are_running(self, *names: str) -> None:
        """Once nothing changes any more."""
        for _ in range(20):
            await asyncio.sleep(0)
        assert self.running == list(names)

    async def close(self) -> None:
        for gate in self._gates.values():
            gate.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        assert self.gaps.batch_sequences == 0


async def test_few_run_at_once_and_the_others_follow() -> None:
    lines = Lines(slots=8, most=2)
    lines.submit("1", "2", "3", "bad")
    await lines.are_running("1", "2")
    assert await lines.let_go("1") is ANSWER
    await lines.are_running("2", "3")
    lines.let_go("2")
    await lines.are_running("3", "bad")
    with pytest.raises(Unavailable):
        await lines.let_go("bad")
    await lines.close()


async def test_callers_take_turns() -> None:
    lines = Lines(slots=8, most=1)
    lines.submit("a1", "a2", "a3")
    await lines.are_running("a1")
    lines.submit("b1", caller="b")
    await lines.are_running("a1")
    await lines.let_go("a1")
    await lines.are_running("b1")
    await lines.close()


async def test_batches_leave_the_slots_that_tasks_have() -> None:
    lines = Lines(slots=4, most=3)
    with lines.gaps.taken(2):
        lines.submit("1", "2", "3")
        await lines.are_running("1", "2")
    await lines.are_running("1", "2", "3")
    await lines.close()


async def test_the_latest_give_way_at_once_and_run_again() -> None:
    lines = Lines(slots=4, most=4)
    lines.submit("1", "2", "3", "4")
    await lines.are_running("1", "2", "3", "4")
    with ExitStack() as tasks:
        for _ in range(2):
            tasks.enter_context(lines.gaps.taken(1))  # it returns at once, whatever runs
        assert lines.gaps.batch_sequences == 2
        await lines.are_running("1", "2")
        tasks.enter_context(lines.gaps.taken(16))
        await lines.are_running()
        assert lines.metrics.registry.get_sample_value("lmaas_batch_gave_way_total") == 4
    await until(lambda: len(lines.running) == 4)
    assert sorted(lines.begun) == ["1", "1", "2", "2", "3", "3", "4", "4"]
    assert await lines.let_go("3") is ANSWER
    await lines.close()


async def test_what_ends_while_it_gives_way_keeps_its_answer() -> None:
    lines = Lines(slots=1, most=1)
    lines.submit("1")
    await lines.are_running("1")
    done = lines.let_go("1")
    await asyncio.sleep(0)  # the work is over, and its caller does not know it yet
    with lines.gaps.taken(1):
        assert await done is ANSWER
    assert lines.begun == ["1"]


@pytest.mark.parametrize(("n", "alone"), [(2, ["wide"]), (9, ["wide"])])
async def test_what_is_wider_than_the_bound_runs_alone(n: int, alone: list[str]) -> None:
    lines = Lines(slots=8, most=1)
    lines.submit("1")
    lines.submit("wide", n=n)
    lines.submit("2")
    await lines.are_running("1")
    await lines.let_go("1")
    await lines.are_running(*alone)
    await lines.let_go("wide")
    await lines.are_running("2")
    await lines.close()


async def test_a_cancelled_job_leaves_its_place() -> None:
    lines = Lines(slots=2, most=1)
    lines.submit("1", "2", "3")
    await lines.are_running("1")
    for name in ("2", "1"):  # one that waits, and one that runs
        with pytest.raises(asyncio.CancelledError):
            await lines.cancel(name)
    await lines.are_running("3")
    assert lines.begun == ["1", "3"]
    await lines.close()


async def test_a_job_is_cancelled_between_its_turn_and_its_first_step() -> None:
    lines = Lines(slots=2, most=1)
    lines.submit("1", "2")
    await lines.are_running("1")
    lines.let_go("1")
    await until(lambda: "1" not in lines.running)
    with pytest.raises(asyncio.CancelledError):
        await lines.cancel("2")
    lines.submit("3")
    await lines.are_running("3")
    await lines.close()
