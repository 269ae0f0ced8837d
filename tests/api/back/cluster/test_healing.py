"""Triton, or one of its stubs, is killed or hangs: all heals by itself, and says so meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Callable

import anyio
import anyio.lowlevel
import pytest

from api.back.backend import Backend
from api.back.cluster.records import ServerState
from api.back.settings import BackSettings
from api.back.store.records import DeploymentState
from api.errors import Unavailable
from kernels.library import PRELOAD
from runtime.contract import Kind, Operation
from runtime.messages import Answer
from tests.api.back.cluster.requests import (
    complete,
    deploy_all,
    language_model,
    outcome,
    processes,
    stub_pids,
    until,
)

pytestmark = pytest.mark.anyio
HEAL_SECONDS = 60.0
Victim = Callable[[Backend, BackSettings], int]


@pytest.fixture(scope="module")
async def patient(backend: Backend) -> Backend:
    await deploy_all(backend)
    return backend


def triton(backend: Backend, settings: BackSettings) -> int:
    pid = backend.cluster.servers()[0].pid
    assert pid is not None
    return pid


def stub(backend: Backend, settings: BackSettings) -> int:
    return stub_pids(settings, "tiny", 1)[0]


class Aborts:
    """Whether Triton itself has ended since then, by a mutex that a killed stub held: see kernels/preload.c.

    Where that library was not built, this may happen. The neighbours end and are started again with it.
    """

    def __init__(self, backend: Backend, settings: BackSettings) -> None:
        self._backend = backend
        self._log = settings.home / "logs" / "triton-0.log"
        self._begin = self._log.stat().st_size
        self._restarts = backend.cluster.servers()[0].restarts

    def __bool__(self) -> bool:
        if self._backend.cluster.servers()[0].restarts == self._restarts:
            return False
        assert not PRELOAD.is_file()
        assert b"boost::interprocess::lock_exception" in self._log.read_bytes()[self._begin :]
        return True


async def begun_stream(backend: Backend) -> AsyncGenerator[Answer, None]:
    """A long stream, of which the first piece is here."""
    parameters = {"max_tokens": 80, "ignore_eos": True, "n": 16}
    target = language_model(backend, 1)
    answer = backend.cluster.generate(
        target, prompt="the", parameters=parameters, operation=Operation.GENERATE, stream=True
    )
    await answer.__anext__()
    return answer


@pytest.mark.parametrize(
    ("victim", "sign"),
    [(triton, signal.SIGKILL), (stub, signal.SIGKILL), (stub, signal.SIGSTOP)],
    ids=["triton killed", "stub killed", "stub hangs"],
)
async def test_it_heals(
    patient: Backend, cluster_settings: BackSettings, victim: Victim, sign: signal.Signals
) -> None:
    await until(lambda: patient.cluster.readiness().ready, "ready")
    expected = await complete(patient, language_model(patient, 1))
    others = stub_pids(cluster_settings, "tiny", 2) + stub_pids(cluster_settings, "head", 1)
    aborts = Aborts(patient, cluster_settings)
    texts: list[str] = []

    async def ask() -> None:
        texts.append(await complete(patient, language_model(patient, 1), stream=False))

    with anyio.fail_after(HEAL_SECONDS):
        async with anyio.create_task_group() as group:
            pid = victim(patient, cluster_settings)
            stream = await begun_stream(patient)
            for _ in range(3):
                group.start_soon(ask)
            await anyio.lowlevel.checkpoint()  # the requests are on their way
            os.kill(pid, sign)
            # On a busy machine the engine may have been done before this process saw the first piece.
            assert await outcome(stream) in (Unavailable, 16)
            await until(
                lambda: any("tiny/1" in reason for reason in patient.cluster.readiness().reasons), "unready"
            )
            assert not patient.cluster.readiness().ready
            with pytest.raises(Unavailable) as caught:
                language_model(patient, 1)
            assert caught.value.retry_after > 0
        await until(lambda: patient.cluster.readiness().ready, "healed")
    assert texts == [expected] * 3  # nothing of them had been sent: each was sent again
    assert await complete(patient, language_model(patient, 1)) == expected
    if victim is stub and not aborts:  # the neighbours felt nothing
        assert stub_pids(cluster_settings, "tiny", 2) + stub_pids(cluster_settings, "head", 1) == others
    assert len(processes(cluster_settings)) == 1 + 1 + 3  # the guard, Triton and its stubs
    assert patient.cluster.servers()[0].state is ServerState.READY


async def test_the_others_answer_while_one_is_dead(patient: Backend, cluster_settings: BackSettings) -> None:
    await until(lambda: patient.cluster.readiness().ready, "ready")
    aborts = Aborts(patient, cluster_settings)
    os.kill(stub(patient, cluster_settings), signal.SIGKILL)
    try:
        answered, seen = 0, False
        while not seen or answered < 20:
            head = patient.cluster.choose("head", None, Kind.CLASSIFIER)
            await patient.cluster.classify(head, ["the cat"])
            await complete(patient, language_model(patient, 2))
            answered += 1
            seen = seen or not patient.cluster.readiness().ready
        states = {(record.model, record.version): record.state for record in patient.cluster.deployments()}
        assert states["tiny", 2] is states["head", 1] is DeploymentState.READY
    except Unavailable:
        await until(lambda: aborts, "an abort, as nothing else makes the others unavailable")
    await until(lambda: patient.cluster.readiness().ready, "healed")


async def test_a_crash_loop_backs_off_and_shows(patient: Backend, cluster_settings: BackSettings) -> None:
    waited = 0.0
    for _ in range(2):
        await until(lambda: patient.cluster.servers()[0].pid is not None, "running")
        restarts = patient.cluster.servers()[0].restarts
        os.kill(triton(patient, cluster_settings), signal.SIGKILL)
        await until(lambda: patient.cluster.servers()[0].state is ServerState.DEAD, "dead")
        await anyio.lowlevel.checkpoint()
        waited = max(
            waited,
            await until(lambda: patient.cluster.servers()[0].restarts > restarts, "restarted"),  # noqa: B023
        )
    assert waited > 0.9
    await until(lambda: patient.cluster.readiness().ready, "healed")
