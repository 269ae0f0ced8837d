"""Uploads: streamed to disk, limited while they stream, converted as a task."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient

from api.app import create_app
from api.config import Settings
from api.errors import InvalidInput
from api.front import multipart
from tests.api.asgi import Call, events
from tests.api.conftest import Run, running
from tests.api.fakes import FakeBack

GZIP = b"\x1f\x8b"
HEADERS = {"content-type": "multipart/form-data; boundary=XX"}


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    return f'--XX\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XX--\r\n"


def cut(body: bytes, size: int) -> Iterator[bytes]:
    for offset in range(0, len(body), size):
        yield body[offset : offset + size]


def test_upload_converts_and_deploys(client: TestClient, back: FakeBack, settings: Settings) -> None:
    files = {"file": ("story.tar.gz", GZIP + b"x" * 100)}
    answer = client.post(
        "/v1/models", data={"name": "story", "deploy": "true", "precision": "fp32"}, files=files
    )
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert (body["model"], body["version"], body["new"]) == ("story", 1, True)
    assert answer.headers["location"] == f"/v1/tasks/{body['task']['id']}"
    found = events(client.get(f"{answer.headers['location']}/events").content)
    assert found[-1][0] == "done"
    record = client.get(answer.headers["location"]).json()
    assert record["result"]["deployment"] == "d-story-1"
    assert record["result"]["variants"] == ["fp32", "int8"]
    assert client.get("/v1/deployments/d-story-1").json()["precision"] == "fp32"
    assert back.models.received == [GZIP + b"x" * 100]
    assert list(settings.back.staging.iterdir()) == []


def test_the_same_bytes_again_are_the_same_version(client: TestClient) -> None:
    def upload() -> dict[str, object]:
        body: dict[str, object] = client.post(
            "/v1/models", data={"name": "s", "deploy": "1"}, files={"file": ("a.zip", GZIP)}
        ).json()
        return body

    first, second = upload(), upload()
    assert (first["version"], first["new"]) == (1, True)
    assert (second["version"], second["new"]) == (1, False)


def test_a_conversion_under_way_is_shared(app: Starlette, back: FakeBack, run: Run) -> None:
    async def test() -> None:
        back.converter.gate = asyncio.Event()
        body = form(part("name", b"s"), part("file", GZIP, "a.zip"))
        async with running(app):
            tasks = []
            for _ in range(2):
                call = Call(app, "POST", "/v1/models", headers=HEADERS, chunks=[body])
                await call.done()
                assert call.status == 202
                tasks.append(call.headers["location"])
            assert tasks[0] == tasks[1]
            back.converter.gate.set()

    run(test)


def test_texts_are_generated_while_conversions_wait(settings: Settings, back: FakeBack, run: Run) -> None:
    app = create_app(settings.model_copy(update={"task_workers": 1}), open_backend=back.open)

    async def test() -> None:
        back.converter.gate = asyncio.Event()
        async with running(app):
            for name in (b"r", b"s", b"t"):
                body = form(part("name", name), part("file", GZIP, "a.zip"))
                call = Call(app, "POST", "/v1/models", headers=HEADERS, chunks=[body])
                await call.done()
                assert call.status == 202
            asked = Call.json(app, "/v1/tasks", {"type": "generate", "parameters": {"prompt": "a"}})
            await asked.done()
            path = asked.headers["location"] + "/events"
            followed = Call(app, "GET", path, headers={}, chunks=[b""])
            await followed.done()
            assert events(followed.body)[-1][0] == "done"
            states = [record.state.value for record in back.tasks.records.values()]
            assert states == ["running", "queued", "queued", "done"]
            back.converter.gate.set()

    run(test)


def test_progress_is_followed_by_events(app: Starlette, back: FakeBack, run: Run) -> None:
    async def test() -> None:
        back.converter.gate = asyncio.Event()
        body = form(part("name", b"s"), part("file", GZIP, "a.zip"), part("deploy", b"true"))
        async with running(app):
            call = Call(app, "POST", "/v1/models", headers=HEADERS, chunks=[body])
            await call.done()
            path = call.headers["location"] + "/events"
            followers = [Call(app, "GET", path, headers={}, chunks=[b""]) for _ in range(2)]
            for follower in followers:
                await follower.until(2)
            back.converter.gate.set()
            for follower in followers:
                await follower.done()
                names = [name for name, _ in events(follower.body)]
                assert names == ["progress"] * 5 + ["done"]
            stages = [data["stage"] for _, data in events(followers[0].body)[:-1]]
            assert stages == ["reading", "exporting", "verifying", "deploying", "deploying"]

    run(test)


def test_a_failed_conversion_says_why(client: TestClient, back: FakeBack) -> None:
    back.converter.error = InvalidInput.of("file", "config.json: model_type is bert; gpt2 is needed")
    answer = client.post("/v1/models", data={"name": "s"}, files={"file": ("a.zip", GZIP)})
    client.get(f"{answer.headers['location']}/events")
    record = client.get(answer.headers["location"]).json()
    assert record["state"] == "failed"
    assert record["error"]["type"] == "/docs#invalid-input"
    assert record["error"]["errors"] == [
        {"field": "file", "message": "config.json: model_type is bert; gpt2 is needed"}
    ]


def test_deleting_a_model_ends_its_conversion(app: Starlette, back: FakeBack, run: Run) -> None:
    async def test() -> None:
        back.converter.gate = asyncio.Event()
        body = form(part("name", b"s"), part("file", GZIP, "a.zip"))
        async with running(app):
            call = Call(app, "POST", "/v1/models", headers=HEADERS, chunks=[body])
            await call.done()
            delete = Call(app, "DELETE", "/v1/models/s", headers={}, chunks=[b""])
            await delete.done()
            assert delete.status == 204
        (record,) = back.tasks.records.values()
        assert record.state.value == "cancelled"

    run(test)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (form(part("name", b"s")), 422, "file"),
        (form(part("file", GZIP, "a")), 422, "name"),
        (form(part("name", b""), part("file", GZIP, "a")), 422, "name"),
        (form(part("name", b"s"), part("file", b"plain", "a")), 422, "file"),
        (form(part("name", b"s"), part("file", b"", "a")), 422, "file"),
        (form(part("name", b"s"), part("name", b"t"), part("file", GZIP, "a")), 422, "name"),
        (form(part("file", GZIP, "a"), part("file", GZIP, "b"), part("name", b"s")), 422, "file"),
        (form(part("name", b"s"), part("colour", b"red"), part("file", GZIP, "a")), 422, "colour"),
        (form(part("name", b"s"), part("deploy", b"perhaps"), part("file", GZIP, "a")), 422, "deploy"),
        (form(part("name", b"s"), part("precision", b"fp64"), part("file", GZIP, "a")), 422, "precision"),
        (form(part("name", b"\xff"), part("file", GZIP, "a")), 422, "name"),
        (form(part("name", b"s" * 5000), part("file", GZIP, "a")), 422, "name"),
        (form(*[part(f"f{number}", b"") for number in range(20)]), 400, None),
        (part("name", b"s") + part("file", GZIP, "a"), 400, None),
        (b"nothing of the kind", 400, None),
        (b"--XX\r\nno header\r\n\r\n--XX--\r\n", 400, None),
        (b"", 400, None),
    ],
)
def test_forms_that_are_wrong(
    client: TestClient, settings: Settings, body: bytes, status: int, field: str | None
) -> None:
    answer = client.post("/v1/models", content=body, headers=HEADERS)
    assert answer.status_code == status, answer.text
    if field:
        assert answer.json()["errors"][0]["field"] == field
    assert list(settings.back.staging.iterdir()) == []


def test_other_bodies_are_refused(client: TestClient) -> None:
    plain = {"content-type": "text/plain"}
    assert client.post("/v1/models", content=b"s", headers=plain).status_code == 415
    headers = {"content-type": "multipart/form-data"}
    assert client.post("/v1/models", content=b"", headers=headers).status_code == 400


def test_the_limit_holds_while_the_file_arrives(settings: Settings, back: FakeBack, run: Run) -> None:
    app = create_app(settings.model_copy(update={"max_archive_bytes": 5000}), open_backend=back.open)

    async def test() -> None:
        body = form(part("name", b"s"), part("file", GZIP + b"x" * 6000, "a"))
        async with running(app):
            chunked = Call(app, "POST", "/v1/models", headers=HEADERS, chunks=cut(body, 1000))
            declared = {**HEADERS, "content-length": "1000000"}
            at_once = Call(app, "POST", "/v1/models", headers=declared, chunks=[b""])
            for call in (chunked, at_once):
                await call.done()
                assert call.status == 413
                assert b"5000" in call.body
        assert list(settings.back.staging.iterdir()) == []

    run(test)


def test_a_caller_who_leaves_leaves_no_file(app: Starlette, settings: Settings, run: Run) -> None:
    async def test() -> None:
        async with running(app):
            call = Call(app, "POST", "/v1/models", headers=HEADERS, chunks=[])
            call.leave()
            await call.done()
        assert call.messages == []
        assert list(settings.back.staging.iterdir()) == []

    run(test)


@given(size=st.integers(1, 400), content=st.binary(max_size=300))
@hypothesis_settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_however_the_body_is_cut(app: Starlette, back: FakeBack, run: Run, size: int, content: bytes) -> None:
    back.models.received.clear()
    body = form(part("name", b"s"), part("file", GZIP + content, "a b.zip"))

    async def test() -> None:
        fresh = create_app(app.state.settings, open_backend=back.open)
        async with running(fresh):
            call = Call(fresh, "POST", "/v1/models", headers=HEADERS, chunks=cut(body, size))
            await call.done()
            assert call.status == 202

    run(test)
    assert back.models.received == [GZIP + content]


def test_upload_bytes_are_counted(client: TestClient, tmp_path: Path) -> None:
    client.post("/v1/models", data={"name": "s"}, files={"file": ("a.zip", GZIP + b"x" * 1000)})
    line = next(
        line
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("lmaas_http_upload_bytes_total")
    )
    assert float(line.split()[1]) > 1000


def test_an_upload_that_fills_the_disk(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(multipart, "_flush", no_room)
    answer = client.post("/v1/models", data={"name": "story"}, files={"file": ("a.tar.gz", GZIP * 100)})
    assert (answer.status_code, answer.json()["type"]) == (507, "/docs#store-full")
    assert answer.json()["detail"].startswith(f"the disk is full: {settings.back.staging}")
    assert "retry-after" in answer.headers
    assert list(settings.back.staging.iterdir()) == []
