"""Uploads by digest: in parts, resumed, verified, bounded, and usable by who knows the digest."""

from __future__ import annotations

import hashlib
import os
import random
import time
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from api.app import create_app
from api.config import Settings
from tests.api.asgi import Call, until
from tests.api.conftest import Run, running, serving_client
from tests.api.stored import StoredBack, stored

CONTENT = b"\x1f\x8b" + random.Random(1).randbytes(5000)  # the same in all processes of a run
SHA256 = hashlib.sha256(CONTENT).hexdigest()
DIGEST = f"sha256:{SHA256}"
PATH = f"/v1/blobs/{DIGEST}"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_archive_bytes": 6000, "max_uploads": 2})


@pytest.fixture
def app(settings: Settings) -> Starlette:
    return create_app(settings, open_backend=StoredBack.make().open)


def put(client: TestClient, first: int, end: int, total: int = len(CONTENT), path: str = PATH) -> Any:
    headers = {"content-range": f"bytes {first}-{end - 1}/{total}"}
    return client.put(path, content=CONTENT[first:end], headers=headers)


def files(settings: Settings) -> set[str]:
    """What lies among the unfinished uploads and the blobs."""
    folders = (settings.back.uploads, settings.back.blobs)
    return {path.name for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_parts_become_a_model(client: TestClient, settings: Settings) -> None:
    assert client.head(PATH).status_code == 404
    assert "range" not in client.head(PATH).headers
    first = put(client, 0, 2000)
    assert (first.status_code, first.json()) == (202, {"digest": DIGEST, "received": 2000, "stored": False})
    for answer in (first, client.head(PATH), client.get(PATH)):
        assert answer.headers["range"] == "bytes=0-1999"
    assert client.head(PATH).status_code == 404
    assert files(settings) == {f"{SHA256}.part"}
    assert put(client, 2000, 2001).headers["range"] == "bytes=0-2000"
    last = put(client, 2001, len(CONTENT))
    assert (last.status_code, last.headers["location"]) == (201, PATH)
    assert files(settings) == {SHA256}
    shown = {"digest": DIGEST, "received": len(CONTENT), "stored": True}
    assert client.head(PATH).status_code == 200
    assert client.get(PATH).json() == last.json() == shown
    assert put(client, 0, len(CONTENT)).status_code == 201  # nothing is sent twice
    made = [client.post("/v1/models", json={"name": "story", "blob": DIGEST}) for _ in range(2)]
    assert [answer.status_code for answer in made] == [202, 202]
    assert [(answer.json()["version"], answer.json()["new"]) for answer in made] == [(1, True), (1, False)]
    assert made[0].json()["archive_sha256"] == SHA256


def test_a_whole_file_needs_no_range(client: TestClient) -> None:
    assert client.put(PATH, content=CONTENT).status_code == 201
    assert client.head(PATH).status_code == 200


def test_a_part_out_of_order_is_refused_and_zero_begins_anew(client: TestClient) -> None:
    assert put(client, 10, 20).status_code == 416
    put(client, 0, 1000)
    for first in (999, 1001):
        refused = put(client, first, 2000)
        assert (refused.status_code, refused.headers["range"]) == (416, "bytes=0-999")
        assert refused.json()["type"] == "/docs#wrong-range"
    assert put(client, 0, 10).headers["range"] == "bytes=0-9"


def test_wrong_bytes_are_not_kept(client: TestClient, settings: Settings) -> None:
    wrong = client.put(PATH, content=CONTENT[:-1] + b"?")
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "digest")
    assert DIGEST in wrong.json()["detail"]
    assert files(settings) == set()
    assert client.head(PATH).status_code == 404


@pytest.mark.parametrize(
    ("path", "content_range", "status"),
    [
        ("/v1/blobs/sha256:abc", None, 422),
        (f"/v1/blobs/{SHA256}", None, 422),
        (f"/v1/blobs/sha256:{SHA256.upper()}", None, 422),
        (PATH, "bytes 0-9", 400),
        (PATH, "bytes */10", 400),
        (PATH, "bytes 5-4/10", 400),
        (PATH, "bytes 0-9/9", 400),
        (PATH, "bytes 0-9/20", 400),  # the body is longer
        (PATH, f"bytes 0-{len(CONTENT) - 1}/6001", 413),
    ],
)
def test_wrong_requests(client: TestClient, path: str, content_range: str | None, status: int) -> None:
    headers = {} if content_range is None else {"content-range": content_range}
    answer = client.put(path, content=CONTENT, headers=headers)
    assert answer.status_code == status, answer.text


def test_the_number_and_the_age_of_uploads_are_bounded(client: TestClient, settings: Settings) -> None:
    paths = [f"/v1/blobs/sha256:{letter * 64}" for letter in "abc"]
    for path in paths[:2]:
        assert put(client, 0, 10, path=path).status_code == 202
    refused = put(client, 0, 10, path=paths[2])
    assert (refused.status_code, refused.json()["type"]) == (429, "/docs#overloaded")
    assert "LMAAS_MAX_UPLOADS" in refused.json()["detail"]
    assert "retry-after" in refused.headers
    assert put(client, 10, 20, path=paths[0]).status_code == 202
    long_ago = time.time() - settings.back.upload_retention.total_seconds() - 1
    os.utime(settings.back.uploads / f"{'a' * 64}.part", (long_ago, long_ago))
    assert put(client, 0, 10, path=paths[2]).status_code == 202
    assert files(settings) == {f"{letter * 64}.part" for letter in "bc"}


def test_what_came_before_the_caller_left_is_kept_by_a_restart_too(settings: Settings, run: Run) -> None:
    async def test() -> None:
        app = create_app(settings, open_backend=StoredBack.make().open)
        async with running(app):
            headers = {"content-range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"}
            call = Call(app, "PUT", PATH, headers=headers, chunks=[])
            call._incoming.put_nowait({"type": "http.request", "body": CONTENT[:1234], "more_body": True})
            await until(lambda: files(settings))
            other = Call(app, "PUT", PATH, headers=headers, chunks=[CONTENT])
            await other.done()
            assert (other.status, other.headers["retry-after"]) == (429, "1")
            call.leave()
            await call.done()
            assert call.messages == []

    run(test)
    with serving_client(create_app(settings, open_backend=StoredBack.make().open)) as client:
        assert client.head(PATH).headers["range"] == "bytes=0-1233"
        assert put(client, 1234, len(CONTENT)).status_code == 201


def test_facades_that_share_the_folder_go_on_from_each_other_s_parts(settings: Settings, run: Run) -> None:
    def part(app: Starlette, first: int, *chunks: bytes) -> Call:
        headers = {"content-range": f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}"}
        return Call(app, "PUT", PATH, headers=headers, chunks=chunks)

    async def test() -> None:
        one, two = (create_app(settings, open_backend=stored(name).open) for name in ("one", "two"))
        async with running(one), running(two):
            call = part(one, 0)
            call._incoming.put_nowait({"type": "http.request", "body": CONTENT[:1234], "more_body": True})
            await until(lambda: files(settings))
            other = part(two, 0, CONTENT)
            await other.done()
            assert (other.status, other.headers["retry-after"]) == (429, "1")
            call.leave()
            await call.done()
            early = part(two, 2000, CONTENT[2000:])
            await early.done()
            assert (early.status, early.headers["range"]) == (416, "bytes=0-1233")
            rest = part(two, 1234, CONTENT[1234:])
            await rest.done()
            assert rest.status == 201
            assert files(settings) == {SHA256}

    run(test)


def test_a_model_of_an_unknown_blob(client: TestClient) -> None:
    answer = client.post("/v1/models", json={"name": "story", "blob": DIGEST})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (404, "blob")
    answer = client.post("/v1/models", json={"name": "story", "blob": SHA256})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "blob")


def test_a_full_disk_is_named(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from api.back.store import uploads

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uploads, "_open", no_room)
    answer = client.put(PATH, content=CONTENT)
    assert (answer.status_code, answer.json()["type"]) == (507, "/docs#store-full")
