"""What keeps Triton and its models alive goes on, whatever goes wrong around it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from api.back.cluster import keeper, supervisor
from api.back.cluster.installation import Installation
from api.back.cluster.keeper import Keeper
from api.back.cluster.server import ModelServer
from api.back.cluster.supervisor import Supervisor
from api.back.settings import BackSettings
from api.back.store.records import DeploymentState
from api.errors import Unavailable
from tests.api.back.cluster.live_deployments import live

pytestmark = pytest.mark.anyio


async def test_a_server_that_is_gone_takes_no_call() -> None:
    server = ModelServer("127.0.0.1:9")
    await server.close()
    with pytest.raises(Unavailable, match="restarting"):
        await server.load("m", 1.0)
    with pytest.raises(Unavailable, match="restarting"):
        await server.unload("m", 1.0)
    assert not await server.live(1.0)


class Failing:
    """Fails twice, then waits for ever."""

    def __init__(self) -> None:
        self.times = 0
        self.third = asyncio.Event()

    async def __call__(self) -> None:
        self.times += 1
        if self.times < 3:
            raise OSError("no descriptors are left")
        self.third.set()
        await asyncio.Event().wait()


async def until_the_third(failing: Failing, work: Any) -> None:
    task = asyncio.create_task(work)
    await asyncio.wait_for(failing.third.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_supervisor_outlives_its_own_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.01)
    kept, failing = Supervisor(BackSettings(home=tmp_path), Installation.find()), Failing()
    monkeypatch.setattr(kept, "_follow", failing)
    await until_the_third(failing, kept._keep())


async def test_a_keeper_outlives_its_own_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_backoff", lambda times: 0.01 * times)
    settings, failing = BackSettings(home=tmp_path), Failing()
    kept = live("m")
    supervising: Any = None
    keeping = Keeper(kept, supervising, supervising, settings, asyncio.Lock())
    monkeypatch.setattr(keeping, "_run", failing)
    await until_the_third(failing, keeping.run())
    assert kept.record.state is DeploymentState.FAILED
    assert kept.record.error == "its supervision failed; the log says how"
