"""A step of the engine that never returns: its callers are told why, and the model comes back by itself."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import pytest

from api.back import backend as opening
from api.back.backend import Backend
from api.back.cluster.installation import assemble_backends
from api.back.settings import BackSettings
from api.errors import Unavailable
from tests.api.back.cluster.requests import complete, language_model, stub_pids, until

pytestmark = pytest.mark.anyio
HEAL_SECONDS = 60.0
POISON = 13
# The backend, with a graph that hangs in a request with this seed.
MODEL = f"""
import time
from runtime.session import LmSession
from runtime.triton import TritonPythonModel as TritonPythonModel

run = LmSession.run

def hang(self, batch):
    if any(sequence.state.request.parameters.seed == {POISON} for sequence in batch.sequences):
        time.sleep(600)
    return run(self, batch)

LmSession.run = hang
"""


@pytest.fixture
def stall_settings(converted_home: Path, cluster_settings: BackSettings, tmp_path: Path) -> BackSettings:
    """The probes are so patient that the engine's own watchdog comes first."""
    shutil.copytree(converted_home, tmp_path / "home")
    engine = dataclasses.replace(cluster_settings.engine, step_timeout_seconds=1)
    return dataclasses.replace(
        cluster_settings, home=tmp_path / "home", engine=engine, probe_timeout_seconds=60.0
    )


@pytest.fixture
async def patient(
    stall_settings: BackSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Backend]:
    (tmp_path / "backends" / "lmaas").mkdir(parents=True)
    (tmp_path / "backends" / "lmaas" / "model.py").write_text(MODEL)
    assemble = partial(assemble_backends, source=tmp_path / "backends")
    monkeypatch.setattr(opening, "assemble_backends", assemble)
    async with Backend.open(stall_settings) as opened:
        yield opened


async def test_a_step_that_hangs_is_told_of_and_healed(
    patient: Backend, stall_settings: BackSettings
) -> None:
    await patient.cluster.deploy("tiny", 1, "auto")
    expected = await complete(patient, language_model(patient))
    before = stub_pids(stall_settings, "tiny", 1)
    errors: list[Unavailable] = []

    async def ask(seed: int) -> None:
        try:
            while True:
                await complete(patient, language_model(patient), max_tokens=80, seed=seed)
        except Unavailable as error:
            errors.append(error)

    with anyio.fail_after(HEAL_SECONDS):
        async with anyio.create_task_group() as group:
            for seed in (POISON, 1, 2):
                group.start_soon(ask, seed)
        await until(lambda: not patient.cluster.readiness().ready, "unready")
        await until(lambda: patient.cluster.readiness().ready, "healed")
    assert {error.detail.partition(";")[0] for error in errors} == {
        "a step of the model has run for more than 1 s"
    }
    assert await complete(patient, language_model(patient)) == expected
    assert stub_pids(stall_settings, "tiny", 1) != before
    log = (stall_settings.logs / "triton-0.log").read_text()
    assert "time.sleep(600)" in log, "it says where it hung"
    assert "this process ends with status 70" in log
