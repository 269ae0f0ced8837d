"""Asynchronous tasks over HTTP: submit, look, list, follow, cancel."""

from __future__ import annotations

import dataclasses

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from api.app import create_app
from api.back.store.records import TaskRecord, TaskState
from api.caller import Caller
from api.config import Settings
from api.errors import StoreFull, StoreUnavailable
from tests.api.asgi import Call, events, until
from tests.api.conftest import Run, running
from tests.api.fakes import FakeBack
from tests.api.front.test_streams import Gate

SUBMIT = {"type": "generate", "parameters": {"prompt": "a b", "stream": True}}


def finished(client: TestClient, location: str) -> dict[str, object]:
    client.get(f"{location}/events")  # ends with the task
    record: dict[str, object] = client.get(location).json()
    return record


@pytest.mark.parametrize(
    ("task_type", "parameters", "part"),
    [
        ("generate", {"prompt": "a"}, "choices"),
        ("classify", {"input": "a"}, "results"),
        ("infer", {"premise": "a", "hypothesis": "b"}, "results"),
        ("nlu", {"input": "a"}, "results"),
        ("next", {"prompt": "a"}, "candidates"),
        ("score", {"prompt": "a", "continuations": ["b"]}, "scores"),
        ("embed", {"input": "a"}, "embeddings"),
        ("convert", {"model": "mini-lm", "version": "latest"}, "variants"),
    ],
)
def test_every_type_can_wait_its_turn(
    client: TestClient, back: FakeBack, task_type: str, parameters: dict[str, object], part: str
) -> None:
    answer = client.post("/v1/tasks", json={"type": task_type, "parameters": parameters})
    assert answer.status_code == 202
    task = answer.json()
    assert (task["type"], task["state"], task["asynchronous"]) == (task_type, "queued", True)
    assert answer.headers["location"] == f"/v1/tasks/{task['id']}"
    record = finished(client, answer.headers["location"])
    assert record["state"] == "done"
    assert part in record["result"]  # type: ignore[operator]
    assert back.tasks.states(task["id"]) == ["queued", "running", "done"]


def test_a_streamed_task_has_events_and_the_whole_text(client: TestClient) -> None:
    answer = client.post("/v1/tasks", json=SUBMIT)
    record = finished(client, answer.headers["location"])
    assert record["result"]["choices"][0]["text"] == " a b c"  # type: ignore[index]


def test_a_follower_gets_all_events_from_the_first_on(app: Starlette, back: FakeBack, run: Run) -> None:
    async def test() -> None:
        gate = Gate()
        back.cluster.reply = gate.reply
        async with running(app):
            submitted = Call.json(app, "/v1/tasks", SUBMIT)
            await submitted.done()
            location = submitted.headers["location"]
            gate.open(2)
            follower = Call(app, "GET", f"{location}/events", headers={}, chunks=[b""])
            await follower.until(2)
            left = Call(app, "GET", f"{location}/events", headers={}, chunks=[b""])
            await left.until(2)
            left.leave()
            gate.open()
            await follower.done()
            await left.done()
            names = [name for name, _ in events(follower.body)]
            assert names == ["output"] * 3 + ["done"]
            assert back.tasks.states(location.rsplit("/", 1)[1])[-1] == "done"

    run(test)


def test_cancel(app: Starlette, back: FakeBack, run: Run) -> None:
    async def test() -> None:
        back.cluster.reply = Gate().reply
        async with running(app):
            submitted = Call.json(app, "/v1/tasks", SUBMIT)
            await submitted.done()
            location = submitted.headers["location"]
            await until(lambda: back.cluster.running)
            for _ in range(2):
                cancelled = Call(app, "DELETE", location, headers={}, chunks=[b""])
                await cancelled.done()
                assert cancelled.status == 200
                assert b'"state":"cancelled"' in cancelled.body
            assert back.cluster.running == 0

    run(test)


def test_a_running_request_can_be_cancelled_by_its_task(app: Starlette, back: FakeBack, run: Run) -> None:
    async def test() -> None:
        back.cluster.reply = Gate().reply
        async with running(app):
            call = Call.json(app, "/v1/generate", {"prompt": "a"})
            await until(lambda: back.cluster.running)
            (task_id,) = back.tasks.records
            cancel = Call(app, "DELETE", f"/v1/tasks/{task_id}", headers={}, chunks=[b""])
            await cancel.done()
            await call.done()
            assert call.status == 409
            assert b"/docs#cancelled" in call.body

    run(test)


def test_waiting_tasks_are_bounded(settings: Settings, back: FakeBack, run: Run) -> None:
    changed = {"task_workers": 1, "max_queued_tasks": 2}
    app = create_app(settings.model_copy(update=changed), open_backend=back.open)

    async def test() -> None:
        back.cluster.reply = Gate().reply
        async with running(app):
            statuses = []
            for _ in range(4):
                call = Call.json(app, "/v1/tasks", SUBMIT)
                await call.done()
                statuses.append(call.status)
                await until(lambda: back.cluster.running)
            assert statuses == [202, 202, 202, 429]

    run(test)


def test_a_task_of_another_façade_is_followed_to_its_outcome(
    settings: Settings, back: FakeBack, run: Run
) -> None:
    app = create_app(settings.model_copy(update={"stream_ping_seconds": 0.002}), open_backend=back.open)

    async def test() -> None:
        async with running(app):
            record = TaskRecord(
                "t", "generate", TaskState.RUNNING, True, Caller("192.0.2.1"), None, {}, owner="there"
            )
            back.tasks.put(record)
            follower = Call(app, "GET", "/v1/tasks/t/events", headers={}, chunks=[b""])
            await follower.until(4)  # the head, and pings
            back.tasks.put(dataclasses.replace(record, state=TaskState.DONE, result={"choices": []}))
            await follower.done()
            assert [(name, data["result"]) for name, data in events(follower.body)] == [
                ("done", {"choices": []})
            ]

    run(test)


def test_list_and_pages(client: TestClient) -> None:
    for number in range(5):
        client.post("/v1/generate", json={"prompt": f"a{number}"})
    client.post("/v1/classify", json={"input": "a"})
    page = client.get("/v1/tasks", params={"type": "generate", "limit": 3}).json()
    assert [task["parameters"]["prompt"] for task in page["data"]] == ["a4", "a3", "a2"]
    assert page["has_more"] is True
    query = {"type": "generate", "limit": "3", "before": page["data"][-1]["id"], "state": "done"}
    rest = client.get("/v1/tasks", params=query).json()
    assert [task["parameters"]["prompt"] for task in rest["data"]] == ["a1", "a0"]
    assert rest["has_more"] is False
    assert client.get("/v1/tasks", params={"state": "asleep"}).status_code == 422
    assert client.get("/v1/tasks", params={"limit": "0"}).json()["errors"][0]["field"] == "limit"


def test_a_store_that_fails_stops_only_what_needs_it(client: TestClient, back: FakeBack) -> None:
    detail = "the database is locked by another process: /home/lmaas.db"
    for failure, status in ((StoreUnavailable(detail), 503), (StoreFull("the disk is full: /home"), 507)):
        back.tasks.failure = failure
        answer = client.post("/v1/tasks", json=SUBMIT)
        assert answer.status_code == answer.json()["status"] == status
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["detail"] == failure.detail
        assert client.post("/v1/generate", json={"prompt": "a"}).status_code == 200
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"], ready.json()["reasons"]) == (200, "ready", [])
        assert failure.detail in ready.json()["warnings"][0]
        assert "lmaas_store_failing 1.0" in client.get("/metrics").text
    back.tasks.failure = None
    assert client.get("/health/ready").json()["warnings"] == []
    assert "lmaas_store_failing 0.0" in client.get("/metrics").text
    assert client.post("/v1/tasks", json=SUBMIT).status_code == 202


def test_unknown_tasks(client: TestClient) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
        assert client.request(method, f"/v1/tasks/nope{path}").status_code == 404
