"""Trainings in their child process: what comes out of one, its bounds, and what goes on after a stop."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.back import child
from api.back.store.records import VersionState
from api.back.training import Trainings, missing_packages
from api.errors import InvalidInput, ServerFault
from runtime.contract import Kind
from tests.api.asgi import until
from tests.api.back.stores import Stores

pytestmark = pytest.mark.anyio
OPTIONS: dict[str, Any] = {
    "vocabulary": 300, "layers": 1, "width": 64, "context": 32, "batch_size": 4, "precision": "fp32",
    "device": "cpu",
}  # fmt: skip
ROWS = [{"text": f"{word} film number {n}", "label": word} for n in range(8) for word in ("good", "bad")]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine others would go first."""
    monkeypatch.setattr(child, "NICE", 0)


def trainings(stores: Stores, **limits: Any) -> Trainings:
    return Trainings(dataclasses.replace(stores.settings, **limits), stores.models)


def prepare(found: Trainings, rows: list[dict[str, Any]], start: str | None = None, **options: Any) -> Path:
    folder = found.open("task")
    found.place_rows("task", "data.jsonl", rows)
    request: dict[str, Any] = {
        "name": "films",
        "kind": "classifier",
        "options": OPTIONS | options,
        "train": "data.jsonl",
    }
    request |= {"held_out": "0.25", "test": None, "start": start, "max_rows": 100}
    found.prepare("task", request)
    return folder


def children(stores: Stores) -> list[int]:
    home = str(stores.settings.trainings.absolute())
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(home in argument for argument in process.info["cmdline"] or [])
    ]


def test_what_this_environment_has() -> None:
    assert missing_packages() == []


@pytest.mark.timeout(300)
async def test_a_training_goes_on_after_a_stop_and_becomes_a_version(
    stores: Stores, upload: Callable[[str], Path]
) -> None:
    """From a stored language model, stopped in the middle, to a model of another kind."""
    begin, _ = await stores.models.add_upload("tiny", upload("lm"), "lm.tar.gz")
    begin = await stores.converter.convert(begin)
    found = trainings(stores)
    folder = prepare(found, ROWS, "tiny-1", epochs=50, save_every=10, evaluate_every=50)
    await found.place_artifact("task", begin, "tiny-1")
    task = asyncio.create_task(found.train("task", lambda event: None))
    run = folder / "result" / "films-training"
    await until(lambda: task.done() or list(run.glob("checkpoint-*")))
    assert children(stores)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children(stores) == []
    events: list[dict[str, Any]] = []
    trained = await found.train("task", events.append)
    training = [event for event in events if event["stage"] == "training"]
    assert training[0]["done"] >= 10
    assert training[-1]["done"] == training[-1]["total"] == trained.steps
    assert {"loss", "seconds_left", "figures"} <= set(training[-1])
    assert trained.rows == 12
    assert trained.held_out["accuracy"] == 1.0
    assert trained.report[0].startswith("rows: 12 to train on, 4 held out")
    assert any("from tiny-1" in note for note in trained.report)
    assert not any(str(folder) in note for note in trained.report)
    # What is over is read again, and is the same version.
    assert await found.train("task", events.append) == trained
    version, new = await found.store("task", "films")
    assert new
    assert await found.store("task", "films") == (version, False)
    ready = await stores.converter.convert(version)
    assert (ready.state, ready.kind) == (VersionState.READY, Kind.CLASSIFIER)
    await found.discard("task")
    assert found.known() == []


async def test_a_bad_row_is_named(stores: Stores) -> None:
    found = trainings(stores)
    prepare(found, [*ROWS, {"text": "no label"}])
    with pytest.raises(InvalidInput, match=r"row 17: label: there is no such field") as caught:
        await found.train("task", lambda event: None)
    assert caught.value.errors[0].field == "data"


async def test_the_memory_limit_holds(stores: Stores) -> None:
    found = trainings(stores, training_memory_bytes=72 * 1024**2)
    prepare(found, ROWS)
    with pytest.raises(ServerFault, match="75497472 bytes of memory"):
        await found.train("task", lambda event: None)


async def test_the_time_limit_holds(stores: Stores) -> None:
    found = trainings(stores, training_seconds=0.2)
    prepare(found, ROWS)
    with pytest.raises(ServerFault, match=r"the training took longer than 0\.2 s"):
        await found.train("task", lambda event: None)
    assert children(stores) == []
