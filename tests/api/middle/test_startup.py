"""Bring-up, the bundled checkpoints, and shutdown."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

import pytest
from starlette.applications import Starlette

from api.app import create_app
from api.back.home import LEDGER_FILE
from api.back.store.records import DeploymentState, TaskRecord, TaskState
from api.caller import Caller
from api.config import Settings
from api.errors import Conflict, InvalidInput, ServerFault
from api.middle.bundled import Progress, fingerprint
from api.middle.startup import Phase
from tests.api.asgi import Call, until
from tests.api.conftest import Run, running, serving
from tests.api.fakes import FakeBack, failing_open
from tests.api.front.test_streams import Gate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A models folder with two checkpoints and something else."""
    for name in ("story", "verse"):
        path = tmp_path / "models" / name
        path.mkdir(parents=True)
        (path / "config.json").write_text("{}")
        (path / "model.safetensors").write_text(name)
    (tmp_path / "models" / "notes").mkdir()
    return tmp_path / "models"


@pytest.fixture
def settings(tmp_path: Path, folder: Path) -> Settings:
    return Settings(home=tmp_path / "home", models=folder, drain_seconds=1)


def start(settings: Settings, back: FakeBack, seen: list[Progress]) -> Starlette:
    settings.home.mkdir(exist_ok=True)
    return create_app(settings, on_progress=seen.append, open_backend=back.open)


def once(settings: Settings, back: FakeBack, run: Run) -> list[str]:
    """One start to the end of the bring-up and a stop; returns its progress."""
    seen: list[Progress] = []
    app = start(settings, back, seen)

    async def test() -> None:
        async with running(app):
            await until(lambda: seen[-1].stage == "ready")

    run(test)
    return [f"{item.stage}: {item.message}" for item in seen]


def test_bundled_checkpoints_are_imported_and_deployed_once(
    settings: Settings, back: FakeBack, run: Run
) -> None:
    progress = once(settings, back, run)
    assert {"d-story-1", "d-verse-1"} <= back.cluster.live.keys()
    assert progress[0] == "start: starting the model server"
    assert "import: importing story" in progress
    assert "import: verse: exporting" in progress
    assert progress[-2:] == ["ready: serving", "stopping: ending running tasks"]
    assert len(back.models.received) == 2
    assert {record.caller.address for record in back.tasks.records.values()} == {"startup"}
    assert list(settings.back.staging.iterdir()) == []
    once(settings, back, run)
    assert len(back.models.received) == 2
    assert (back.opened, back.closed) == (2, 2)


def test_what_the_user_removed_stays_away(settings: Settings, back: FakeBack, run: Run, folder: Path) -> None:
    once(settings, back, run)
    del back.cluster.live["d-story-1"]  # undeployed
    del back.cluster.live["d-verse-1"]  # deleted
    del back.models.records["verse"]
    once(settings, back, run)
    assert not {"d-story-1", "d-verse-1"} & back.cluster.live.keys()
    (folder / "story" / "model.safetensors").write_text("a newer release")
    once(settings, back, run)
    assert not {"d-story-1", "d-story-2"} & back.cluster.live.keys()


def test_a_new_home_brings_nothing_back_that_was_removed(
    settings: Settings, back: FakeBack, run: Run, tmp_path: Path
) -> None:
    """As a new pod of a façade in Kubernetes has one, beside the database of all."""
    once(settings, back, run)
    del back.cluster.live["d-story-1"]
    other = settings.model_copy(update={"home": tmp_path / "other"})
    progress = once(other, back, run)
    assert not [step for step in progress if step.startswith("import:")]
    assert "d-story-1" not in back.cluster.live
    assert len(back.models.received) == 2


def test_facades_that_start_together_import_a_model_once(
    settings: Settings, back: FakeBack, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one's record of the deployment is there before this façade has followed it."""

    async def quicker(model: str, version: int | str, *_: object, **__: object) -> object:
        known = back.cluster.live["d-mini-lm"]
        loading = dataclasses.replace(known, model=model, version=1, state=DeploymentState.LOADING)
        back.deployments.records.append(loading)
        raise Conflict(f"model {model!r} version 1 is deployed already, or was deleted")

    monkeypatch.setattr(back.cluster, "deploy", quicker)
    progress = once(settings, back, run)
    assert not [step for step in progress if step.startswith("failed:")]


def test_a_newer_release_takes_the_place_of_the_older(
    settings: Settings, back: FakeBack, run: Run, folder: Path
) -> None:
    once(settings, back, run)
    (folder / "story" / "model.safetensors").write_text("a newer release")
    once(settings, back, run)
    assert "d-story-2" in back.cluster.live
    assert "d-story-1" not in back.cluster.live
    ledger = json.loads((settings.home / LEDGER_FILE).read_text())
    assert ledger["story"] == {"fingerprint": fingerprint(folder / "story"), "version": 2}


def test_a_word_in_a_card_is_no_newer_release(
    settings: Settings, back: FakeBack, run: Run, folder: Path
) -> None:
    once(settings, back, run)
    (folder / "story" / "README.md").write_text("# Story")
    once(settings, back, run)
    assert len(back.models.received) == 2


def test_an_import_that_was_cut_short_is_taken_up(settings: Settings, back: FakeBack, run: Run) -> None:
    back.converter.error = ServerFault("the conversion was killed")
    progress = once(settings, back, run)
    assert "failed: story: the conversion was killed" in progress
    back.converter.error = None
    once(settings, back, run)
    assert {"d-story-1", "d-verse-1"} <= back.cluster.live.keys()


def test_one_bad_checkpoint_keeps_no_other_out(
    settings: Settings, back: FakeBack, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_upload = back.models.add_upload

    async def picky(name: str, archive: Path, filename: str, sha256: str | None = None) -> object:
        if name == "story":
            raise InvalidInput.of("file", "config.json: no model_type")
        return await add_upload(name, archive, filename, sha256)

    monkeypatch.setattr(back.models, "add_upload", picky)
    progress = once(settings, back, run)
    assert "failed: story: file: config.json: no model_type" in progress
    assert "d-verse-1" in back.cluster.live


def test_readiness_warns_of_a_bundled_model_that_is_missing(
    settings: Settings, back: FakeBack, run: Run
) -> None:
    back.converter.error = ServerFault("the conversion was killed")
    app = start(settings, back, [])

    async def test() -> None:
        async with running(app):
            warnings = app.state.appliance.warnings()
            assert warnings[0] == "a bundled model was not imported: story: the conversion was killed"

    run(test)


def test_the_process_answers_while_it_comes_up(settings: Settings, back: FakeBack, run: Run) -> None:
    back.converter.gate = asyncio.Event()
    app = start(settings, back, [])

    async def test() -> None:
        async with app.router.lifespan_context(app):
            await until(lambda: back.tasks.records)
            for path, status in (
                ("/health/live", 200),
                ("/", 200),
                ("/docs", 200),
                ("/metrics", 200),
                ("/openapi.json", 200),
                ("/health/ready", 503),
                ("/v1/models", 503),
                ("/v1/generate?prompt=a", 503),
            ):
                call = Call(app, "GET", path.partition("?")[0], headers={}, chunks=[b""])
                await call.done()
                if "?" not in path:
                    assert call.status == status, path
            call = Call.json(app, "/v1/generate", {"prompt": "a"})
            await call.done()
            assert (call.status, call.headers["retry-after"]) == (503, "2")
            assert b"starting: story" in call.body
            assert back.converter.gate is not None
            back.converter.gate.set()
            await serving(app)

    run(test)


def test_a_stop_during_the_bring_up(settings: Settings, back: FakeBack, run: Run) -> None:
    gate = back.converter.gate = asyncio.Event()
    app = start(settings, back, [])

    async def test() -> None:
        async with app.router.lifespan_context(app):
            await until(lambda: back.tasks.records)
        assert (back.opened, back.closed) == (1, 1)
        assert [record.state.value for record in back.tasks.records.values()] == ["queued"]
        gate.set()

    run(test)
    once(settings, back, run)  # the next start goes on with it
    assert {"d-story-1", "d-verse-1"} <= back.cluster.live.keys()
    first = next(iter(back.tasks.records.values()))
    assert (first.state.value, first.attempt) == ("done", 2)


def test_a_bring_up_that_fails_gives_its_tasks_back(settings: Settings, back: FakeBack, run: Run) -> None:
    (settings.home / LEDGER_FILE).parent.mkdir()
    (settings.home / LEDGER_FILE).write_text("{")
    back.cluster.reply = Gate().reply
    app = start(settings, back, [])

    async def test() -> None:
        caller = Caller("192.0.2.1")
        left = TaskRecord("t", "generate", TaskState.RUNNING, True, caller, None, {"prompt": "a"})
        back.tasks.put(left)
        async with app.router.lifespan_context(app):
            await until(lambda: app.state.appliance.phase is Phase.FAILED)
        kept = back.tasks.records["t"]
        assert (kept.owner, kept.state, kept.attempt) == (None, TaskState.QUEUED, 1)

    run(test)


def test_a_bring_up_that_fails_says_so(settings: Settings, run: Run) -> None:
    refuse = failing_open(ServerFault("libpython3.11.so.1.0 is missing: apt-get install libpython3.11"))
    seen: list[Progress] = []
    settings.home.mkdir()
    app = create_app(settings, on_progress=seen.append, open_backend=refuse)

    async def test() -> None:
        async with app.router.lifespan_context(app):
            await until(lambda: app.state.appliance.phase is Phase.FAILED)
            live = Call(app, "GET", "/health/live", headers={}, chunks=[b""])
            models = Call(app, "GET", "/v1/models", headers={}, chunks=[b""])
            for call in (live, models):
                await call.done()
                assert call.status == 503
                assert b"libpython3.11" in call.body

    run(test)
    assert seen[-1].stage == "failed"


def test_ready_waits_for_the_probes(settings: Settings, back: FakeBack, run: Run) -> None:
    back.cluster.ready = False
    seen: list[Progress] = []
    app = start(settings, back, seen)

    async def test() -> None:
        async with running(app):
            await until(lambda: seen[-1].stage == "load")
            assert "no probe" in seen[-1].message
            back.cluster.ready = True
            await until(lambda: seen[-1].stage == "ready")

    run(test)
