"""Tasks of type `train`: what is refused before one is accepted, and what becomes of one that is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from api.app import create_app
from api.caller import Limits, Scope
from api.config import Settings
from api.errors import ServerFault
from api.middle.handlers import train
from tests.api.asgi import Call, events, until
from tests.api.conftest import Run, running, serving_client
from tests.api.stored import StoredBack, stored

ROWS = [{"text": "a lovely film", "label": "good"}, {"text": "a dreadful film", "label": "bad"}]
TASK: dict[str, Any] = {"model": "films", "kind": "classifier", "data": ROWS}
CSV = b"text,label\na lovely film,good\na dreadful film,bad\n"


@pytest.fixture
def back() -> StoredBack:
    return stored()


@pytest.fixture
def app(settings: Settings, back: StoredBack) -> Starlette:
    return create_app(settings, open_backend=back.open)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Of a server that none of the requests changes."""
    home = tmp_path_factory.mktemp("refusing")
    with serving_client(
        create_app(Settings(home=home, models=home / "none"), open_backend=stored().open)
    ) as client:
        yield client


def submit(client: TestClient, **changed: Any) -> Any:
    return client.post("/v1/tasks", json={"type": "train", "parameters": {**TASK, **changed}})


def sent(client: TestClient, name: str = "rows.csv", content: bytes = CSV, purpose: str = "fine-tune") -> str:
    answer = client.post("/v1/files", data={"purpose": purpose}, files={"file": (name, content)})
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["id"]
    return found


def outcome(client: TestClient, answer: Any) -> Any:
    assert answer.status_code == 202, answer.text
    address = answer.headers["location"]
    assert events(client.get(f"{address}/events").content)
    return client.get(address).json()


def test_a_training_becomes_a_version(client: TestClient, back: StoredBack, settings: Settings) -> None:
    options = {"epochs": 3, "problem": "single"}
    answer = submit(client, data=sent(client), held_out=ROWS, options=options, deploy=True, precision="fp32")
    record = outcome(client, answer)
    assert record["state"] == "done", record["error"]
    result = record["result"]
    assert (result["model"], result["version"], result["deployment"]) == ("films", 1, "d-films-1")
    assert result["held_out"] == {"accuracy": 0.9}
    assert (result["rows"], result["steps"], result["seconds"]) == (8, 2, 1.5)
    (request,) = back.trainings.requests
    assert request["train"] == "data.csv"
    assert request["held_out"] == "held_out.jsonl"
    assert request["options"] == options
    assert request["max_rows"] == settings.training_rows
    assert not list(settings.back.trainings.iterdir())
    assert client.get("/v1/models/films/versions/1").json()["state"] == "ready"


@pytest.mark.parametrize(
    ("changed", "field", "message"),
    [
        ({"options": {"epochs": 0}}, "options.epochs", "must be at least 1, not 0"),
        ({"options": {"epoch": 2}}, "options.epoch", "unknown field"),
        ({"options": {"batch_size": 10**10}}, "options.batch_size", "must be at most 1000000000"),
        ({"options": {"width": 100}}, "options.width", "a multiple of 64 is needed"),
        ({"options": {"attention": "echo"}}, "options.attention", "only nlu reads a text twice"),
        ({"options": {"pack": False}}, "options.pack", "is for lm, not for classifier"),
        ({"options": {"out": "/tmp/x"}}, "options.out", "unknown field"),
        ({"options": {"threads": 64}}, "options.threads", "unknown field"),
        ({"options": {"max_characters": 2, "min_characters": 5}}, "options.max_characters", "at least 5"),
        ({"held_out": 1.5}, "held_out", "must be below 1, not 1.5"),
        ({"data": "/etc/passwd"}, "data", "file '/etc/passwd' does not exist"),
        ({"data": "http://192.0.2.1/rows.csv"}, "data", "does not exist"),
        ({"data": []}, "data", "must have at least 1 items"),
        ({"data": ROWS[:1]}, "data.label", "all 1 rows have the label 'good'"),
        ({"data": [*ROWS, {"text": "x"}]}, "data.2.label", "there is no such field"),
        (
            {"test": [{"text": "x", "label": "odd"}]},
            "test.0.label",
            "'odd' is in no row of the training data",
        ),
        ({"model": "../films"}, "model", "should match pattern"),
        ({"from": "absent"}, "from", "no model 'absent'"),
        ({"from": "../var"}, "from", "no model '..'"),
        ({"from": "mini-lm/7"}, "from", "no version"),
        ({"kind": "seq2seq"}, "kind", "must be 'lm', 'classifier' or 'nlu'"),
        ({"version": 3}, "version", "unknown field"),
    ],
)
def test_what_is_wrong_is_refused_before_it_is_accepted(
    refusing: TestClient, changed: dict[str, Any], field: str, message: str
) -> None:
    answer = submit(refusing, **changed)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["field"] == f"parameters.{field}"
    assert message in error["message"]


def test_a_model_keeps_its_kind(client: TestClient) -> None:
    answer = submit(client, model="mini-lm")
    assert answer.status_code == 409
    assert "'mini-lm' is of kind lm, not classifier" in answer.json()["detail"]


def test_a_file_must_be_one_for_training(client: TestClient) -> None:
    for name, purpose, message in (
        ("rows.csv", "batch", "purpose 'batch', not 'fine-tune'"),
        ("rows.exe", "fine-tune", "a classifier reads .jsonl, .json, .csv, .tsv"),
        ("rows.txt", "fine-tune", "a classifier reads"),
    ):
        answer = submit(client, data=sent(client, name, purpose=purpose))
        assert answer.status_code == 422
        assert message in answer.json()["detail"]


def test_a_server_without_the_extra_says_what_is_missing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "missing_packages", lambda: ["torch", "transformers"])
    answer = submit(client)
    assert answer.status_code == 501
    assert answer.json()["type"] == "/docs#unsupported"
    assert "lacks torch, transformers: pip install 'lmaas[train]'" in answer.json()["detail"]


def test_a_server_may_train_nothing(settings: Settings, back: StoredBack) -> None:
    none = settings.model_copy(update={"training_jobs": 0})
    with serving_client(create_app(none, open_backend=back.open)) as client:
        answer = submit(client)
        assert (answer.status_code, "LMAAS_TRAINING_JOBS is 0" in answer.text) == (501, True)


def test_keys_need_what_uploads_need_and_see_their_own_files(settings: Settings, back: StoredBack) -> None:
    app = create_app(settings.model_copy(update={"access": "keys"}), open_backend=back.open)
    trainer = {Scope.TASKS, Scope.MODELS_WRITE}
    with serving_client(app) as client:

        def key(*scopes: Scope, models: frozenset[str] | None = None) -> dict[str, str]:
            _, secret = back.keys.add("x", frozenset(scopes), limits=Limits(models=models))
            return {"Authorization": f"Bearer {secret}"}

        mine = key(*trainer)
        client.headers.update(mine)
        file = sent(client)
        assert submit(client, data=file).status_code == 202
        client.headers.update(key(*trainer))
        assert submit(client, data=file).status_code == 422
        client.headers.update(key(Scope.TASKS, Scope.INFER))
        assert submit(client).status_code == 403
        client.headers.update(key(*trainer, models=frozenset({"reviews"})))
        assert submit(client, model="reviews", **{"from": "mini-lm"}).status_code == 403
        assert submit(client, model="reviews").status_code == 202
        assert submit(client).status_code == 403


def test_an_idempotency_key_outlives_the_file(client: TestClient) -> None:
    file, headers = sent(client), {"Idempotency-Key": "once"}
    body = {"type": "train", "parameters": {**TASK, "data": file}}
    first = client.post("/v1/tasks", json=body, headers=headers)
    assert outcome(client, first)["state"] == "done"
    client.delete(f"/v1/files/{file}")
    again = client.post("/v1/tasks", json=body, headers=headers)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])


def test_one_training_runs_at_a_time_and_a_cancelled_one_leaves_nothing(
    app: Starlette, back: StoredBack, settings: Settings, run: Run
) -> None:
    async def test() -> None:
        back.trainings.gate = asyncio.Event()
        async with running(app):
            tasks = []
            for _ in range(2):
                call = Call.json(app, "/v1/tasks", {"type": "train", "parameters": TASK})
                await call.done()
                tasks.append(call.headers["location"])
            await until(lambda: back.trainings.requests)
            states = sorted(record.state.value for record in back.tasks.records.values())
            assert states == ["queued", "running"]
            for task in tasks:
                await Call(app, "DELETE", task, headers={}, chunks=[b""]).done()
            assert [record.state.value for record in back.tasks.records.values()] == ["cancelled"] * 2
            assert back.trainings.known() == []
            assert "films" not in back.models.records

    run(test)


def test_a_training_that_is_cancelled_while_it_is_converted_takes_its_version_back(
    app: Starlette, back: StoredBack, run: Run
) -> None:
    async def test() -> None:
        back.converter.gate = asyncio.Event()
        async with running(app):
            call = Call.json(app, "/v1/tasks", {"type": "train", "parameters": TASK})
            await call.done()
            await until(lambda: "films" in back.models.records)
            await Call(app, "DELETE", call.headers["location"], headers={}, chunks=[b""]).done()
            assert "films" not in back.models.records
            assert back.models.all_versions.get(("films", 1)) is None

    run(test)


async def stopped_amid_training(settings: Settings, back: StoredBack) -> str:
    """The task whose training a server began before it stopped."""
    stopping = create_app(settings.model_copy(update={"drain_seconds": 0.01}), open_backend=back.open)
    back.trainings.gate = asyncio.Event()
    async with running(stopping):
        await Call.json(stopping, "/v1/tasks", {"type": "train", "parameters": TASK}).done()
        await until(lambda: back.trainings.requests)
    (task_id,) = back.trainings.known()
    return task_id


def test_a_stop_keeps_a_training_for_the_next_start(
    app: Starlette, settings: Settings, back: StoredBack, run: Run
) -> None:
    async def test() -> None:
        task_id = await stopped_amid_training(settings, back)
        assert back.tasks.records[task_id].state.value == "queued"
        back.trainings.gate = None
        async with running(app):
            await until(lambda: back.tasks.records[task_id].state.finished)
        assert back.tasks.states(task_id)[-1] == "done"
        assert len(back.trainings.requests) == 2
        assert back.trainings.known() == []

    run(test)


def test_what_began_on_another_machine_fails(
    app: Starlette, settings: Settings, back: StoredBack, run: Run
) -> None:
    async def test() -> None:
        task_id = await stopped_amid_training(settings, back)
        await back.trainings.discard(task_id)
        async with running(app):
            await until(lambda: back.tasks.records[task_id].state.finished)
        record = back.tasks.records[task_id]
        assert record.error is not None
        assert "began on another machine" in record.error.detail

    run(test)


def test_a_failed_training_leaves_nothing(client: TestClient, back: StoredBack) -> None:
    back.trainings.error = ServerFault("the training needs more than 5 bytes of memory")
    record = outcome(client, submit(client))
    assert record["state"] == "failed"
    assert "more than 5 bytes" in record["error"]["detail"]
    assert back.trainings.known() == []
    assert "films" not in back.models.records
