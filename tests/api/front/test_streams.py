"""Server-sent events: shape, order, errors, callers that leave, slow readers, shutdown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from api.app import create_app
from api.back.store.records import TaskError
from api.config import Settings
from api.errors import Overloaded, Unavailable
from runtime.contract import FinishReason, Operation
from runtime.messages import Answer, Choice, Generated, Usage
from tests.api.asgi import Call, events, until
from tests.api.conftest import Run, running
from tests.api.fakes import FakeBack
from tests.api.replies import generated, refusing

GENERATE = "/v1/generate"
STREAM = {"prompt": "a b", "stream": True}


class Gate:
    """A reply that goes on by one piece per `open`."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(0)
        self.error: Exception | None = None

    def open(self, pieces: int = 1) -> None:
        for _ in range(pieces):
            self._turns.release()

    async def reply(
        self, text: str, parameters: Mapping[str, Any], operation: Operation
    ) -> AsyncIterator[Answer]:
        for piece in generated(text, parameters):
            await self._turns.acquire()
            if self.error is not None:
                raise self.error
            yield piece


def test_a_stream_has_the_shape_of_the_answer(client: TestClient) -> None:
    whole = client.post(GENERATE, json={"prompt": "a b"}).json()
    answer = client.post(GENERATE, json=STREAM)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"]
    found = events(answer.content)
    assert [name for name, _ in found] == ["message"] * 4
    assert all(
        data.keys() >= {"id", "model", "version", "precision", "choices", "usage"} for _, data in found
    )
    assert "".join(data["choices"][0]["text"] for _, data in found[:-1]) == whole["choices"][0]["text"]
    assert [data["usage"] for _, data in found[:-1]] == [None] * 3
    assert found[-2][1]["choices"][0]["finish_reason"] == "length"
    assert found[-1][1]["usage"] == whole["usage"]
    assert found[-1][1]["choices"] == []


def test_streams_are_not_compressed_and_long_answers_are(client: TestClient) -> None:
    headers = {"accept-encoding": "gzip"}
    assert "content-encoding" not in client.post(GENERATE, json=STREAM, headers=headers).headers
    assert client.get("/openapi.json", headers=headers).headers["content-encoding"] == "gzip"


def test_list_prompts_and_n_keep_their_indices(client: TestClient) -> None:
    answer = client.post(GENERATE, json={"prompt": ["a", "b c"], "n": 2, "stream": True})
    texts: dict[int, str] = {}
    for _, data in events(answer.content):
        for choice in data["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == dict.fromkeys(range(4), " a b c")


def test_an_error_before_the_first_text_has_its_own_status(client: TestClient, back: FakeBack) -> None:
    back.cluster.reply = refusing(
        Overloaded("the queue of mini-lm is full: 256 requests wait", retry_after=2.2)
    )
    answer = client.post(GENERATE, json=STREAM)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["detail"].startswith("the queue of mini-lm is full")
    assert client.post(GENERATE, json={**STREAM, "model": "nobody"}).status_code == 404


@pytest.mark.parametrize("path", [GENERATE, "/v1/completions"])
def test_an_error_inside_the_stream_is_its_last_event(
    app: Starlette, back: FakeBack, run: Run, path: str
) -> None:
    async def test() -> None:
        gate = Gate()
        back.cluster.reply = gate.reply
        async with running(app):
            call = Call.json(app, path, STREAM)
            gate.open()
            await call.until(2)
            gate.error = Unavailable("the model server died")
            gate.open()
            await call.done()
        name, data = events(call.body)[-1]
        if path == GENERATE:
            assert (name, data["status"], data["type"]) == ("error", 503, "/docs#unavailable")
        else:
            assert data["error"]["message"] == "the model server died"
        assert call.messages[-1]["more_body"] is False
        assert next(iter(back.tasks.records.values())).state.value == "failed"

    run(test)


@pytest.mark.parametrize("path", [GENERATE, "/v1/completions"])
def test_a_caller_who_leaves_frees_the_slot(app: Starlette, back: FakeBack, run: Run, path: str) -> None:
    async def test() -> None:
        gate = Gate()
        back.cluster.reply = gate.reply
        async with running(app):
            call = Call.json(app, path, STREAM)
            gate.open()
            await call.until(2)
            assert back.cluster.running == 1
            call.leave()
            await call.done()
            assert (back.cluster.running, back.cluster.closed) == (0, 1)
        assert [record.state.value for record in back.tasks.records.values()] == ["cancelled"]

    run(test)


@pytest.mark.parametrize("body", [STREAM, {"prompt": "a b"}])
def test_a_caller_who_leaves_before_the_first_text(
    app: Starlette, back: FakeBack, run: Run, body: dict[str, Any]
) -> None:
    async def test() -> None:
        back.cluster.reply = Gate().reply
        async with running(app):
            call = Call.json(app, GENERATE, body)
            await until(lambda: back.cluster.running)
            call.leave()
            await call.done()
            assert back.cluster.running == 0
        assert call.messages == []
        (record,) = back.tasks.records.values()
        assert (record.state.value, record.error) == (
            "cancelled",
            TaskError("cancelled", "the caller left"),
        )

    run(test)


def test_what_is_ready_during_a_write_travels_together(app: Starlette, back: FakeBack, run: Run) -> None:
    async def test() -> None:
        gate = Gate()
        back.cluster.reply = gate.reply
        async with running(app):
            call = Call.json(app, GENERATE, STREAM)
            call.hold = asyncio.Event()
            gate.open()
            await call.until(2)  # the head and the first piece, which is slow to write
            gate.open(2)
            await until(lambda: not back.cluster.running)
            call.hold.set()
            await call.done()
        bodies = [message["body"] for message in call.messages[1:]]
        assert [len(events(body)) for body in bodies] == [1, 2, 1]  # the last one is the usage

    run(test)


def test_silence_is_broken_by_pings(settings: Settings, back: FakeBack, run: Run) -> None:
    app = create_app(settings.model_copy(update={"stream_ping_seconds": 0.01}), open_backend=back.open)

    async def test() -> None:
        gate = Gate()
        back.cluster.reply = gate.reply
        async with running(app):
            call = Call.json(app, GENERATE, STREAM)
            gate.open()
            await call.until(4)
            gate.open(2)
            await call.done()
        assert b"\n\n\n\n" in call.body
        assert len(events(call.body)) == 4

    run(test)


def test_streams_end_with_an_error_when_the_server_stops(
    settings: Settings, back: FakeBack, run: Run
) -> None:
    app = create_app(settings.model_copy(update={"drain_seconds": 0.05}), open_backend=back.open)

    async def test() -> None:
        gate = Gate()
        back.cluster.reply = gate.reply
        async with running(app):
            call = Call.json(app, GENERATE, STREAM)
            gate.open()
            await call.until(2)
        await call.done()
        name, data = events(call.body)[-1]
        assert (name, data["detail"]) == ("error", "the server is stopping")

    run(test)


def test_the_back_layer_stays_open_while_queued_work_drains(app: Starlette, back: FakeBack, run: Run) -> None:
    async def test() -> None:
        gate = Gate()
        back.cluster.reply = gate.reply
        async with running(app):
            call = Call.json(app, "/v1/tasks", {"type": "generate", "parameters": {"prompt": "a"}})
            await call.done()
            task_id = json.loads(call.body)["id"]
            await until(lambda: back.cluster.running)
            # As a server does it: no connection is open, so the lifespan ends while the drain goes on.
            draining = asyncio.ensure_future(app.state.appliance.drain())
            stopping = asyncio.ensure_future(app.state.appliance.stop())
            for _ in range(50):
                await asyncio.sleep(0)
            assert back.closed == 0
            gate.open(3)
            await asyncio.gather(draining, stopping)
        assert back.tasks.states(task_id)[-1] == "done"

    run(test)


def test_a_stop_lets_running_tasks_end(app: Starlette, back: FakeBack, run: Run) -> None:
    async def test() -> None:
        gate = Gate()
        back.cluster.reply = gate.reply
        async with running(app):
            call = Call.json(app, GENERATE, STREAM)
            gate.open()
            await call.until(2)
            draining = asyncio.ensure_future(app.state.appliance.drain())
            refused = Call.json(app, GENERATE, STREAM)
            await refused.done()
            assert (refused.status, refused.headers["retry-after"]) == (503, "2")
            gate.open(2)
            await draining
            await call.done()
        assert events(call.body)[-1][1]["usage"]

    run(test)


def test_a_deadline_ends_the_task(app: Starlette, back: FakeBack, run: Run) -> None:
    async def test() -> None:
        back.cluster.reply = Gate().reply
        async with running(app):
            by_header = Call.json(app, GENERATE, {"prompt": "a"}, **{"x-deadline-ms": "20"})
            by_field = Call.json(app, GENERATE, {"prompt": "a", "deadline_ms": 20})
            for call in (by_header, by_field):
                await call.done()
                assert call.status == 504
            assert back.cluster.running == 0
        assert {record.state.value for record in back.tasks.records.values()} == {"expired"}
        assert all(0 < parameters["deadline_ms"] <= 20 for _, parameters, _ in back.cluster.requests)

    run(test)


def test_more_than_the_limit_is_refused_at_once(settings: Settings, back: FakeBack, run: Run) -> None:
    app = create_app(settings.model_copy(update={"max_in_flight": 2}), open_backend=back.open)

    async def test() -> None:
        gate = Gate()
        back.cluster.reply = gate.reply
        async with running(app):
            kept = [Call.json(app, GENERATE, {"prompt": "a"}) for _ in range(2)]
            await until(lambda: back.cluster.running >= 2)
            refused = Call.json(app, GENERATE, {"prompt": "a"})
            await refused.done()
            assert (refused.status, refused.headers["retry-after"]) == (429, "5"), "no task has ended yet"
            gate.open(2)
            for call in kept:
                await call.done()
                assert call.status == 200
            again = Call.json(app, GENERATE, {"prompt": "a"})
            gate.open()
            await again.done()
            assert again.status == 200

    run(test)


async def wide(text: str, parameters: Mapping[str, Any], operation: Operation) -> AsyncIterator[Answer]:
    """A hundred pieces of 10 kB."""
    for number in range(100):
        last = number == 99
        choice = Choice(0, "a" * 10_000, [1], None, FinishReason.LENGTH if last else None)
        yield Generated(1, [choice], Usage.of(1, 100) if last else None, None)
        await asyncio.sleep(0)


@pytest.mark.parametrize("path", [GENERATE, "/v1/completions"])
def test_a_reader_who_lets_too_much_wait_loses_the_task(
    settings: Settings, back: FakeBack, run: Run, path: str
) -> None:
    app = create_app(settings.model_copy(update={"stream_buffer_bytes": 100_000}), open_backend=back.open)
    back.cluster.reply = wide

    async def test() -> None:
        async with running(app):
            call = Call.json(app, path, STREAM)
            call.hold = asyncio.Event()
            await until(lambda: back.cluster.closed)
            call.hold.set()
            await call.done()
        assert len(call.body) < 40_000  # what waited is dropped, and the error says so
        _, data = events(call.body)[-1]
        said = data["detail"] if path == GENERATE else data["error"]["message"]
        assert said == "the stream was read too slowly: more than 100000 bytes of it waited, the limit"
        (record,) = back.tasks.records.values()
        assert (record.state.value, record.error) == ("cancelled", TaskError("cancelled", said))

    run(test)


def test_a_reader_in_time_gets_all_and_the_task_keeps_none(
    settings: Settings, back: FakeBack, run: Run
) -> None:
    app = create_app(settings.model_copy(update={"stream_buffer_bytes": 100_000}), open_backend=back.open)
    back.cluster.reply = wide

    async def test() -> None:
        kept = []
        async with running(app):
            call = Call.json(app, GENERATE, STREAM)
            await until(lambda: back.cluster.running)
            (job,) = app.state.appliance.service.tasks._jobs.values()
            while job.outcome is None:
                kept.append(len(job.events))
                await asyncio.sleep(0)
            await call.done()
        assert sum(len(data["choices"][0]["text"]) for _, data in events(call.body)[:-1]) == 1_000_000
        assert max(kept) <= 2  # until the stream took them over

    run(test)


def test_a_piece_beyond_the_bound_is_sent_all_the_same(settings: Settings, back: FakeBack, run: Run) -> None:
    app = create_app(settings.model_copy(update={"stream_buffer_bytes": 1024}), open_backend=back.open)
    gate = Gate()
    back.cluster.reply = gate.reply

    async def test() -> None:
        async with running(app):
            call = Call.json(app, GENERATE, {"prompt": "a " * 4000, "echo": True, "stream": True})
            gate.open()
            await call.until(2)
            gate.open(3)
            await call.done()
        assert len(events(call.body)) == 5

    run(test)
