"""Files over HTTP, as OpenAI's own client uploads and fetches them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from api.app import create_app
from api.caller import SCOPE_GROUPS
from api.config import Settings
from tests.api.conftest import serving_client
from tests.api.stored import stored

LINES = b'{"custom_id": "a"}\n{"custom_id": "b"}\n'
LIMITS = {"max_file_bytes": 4096, "max_files_per_caller": 3, "max_files": 4, "file_retention_days": 2}
DAY = 86_400


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update=LIMITS)


@pytest.fixture
def app(settings: Settings) -> Starlette:
    return create_app(settings, open_backend=stored().open)


def asker(client: TestClient, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=f"{client.base_url}/v1", http_client=client, max_retries=0)


@pytest.fixture
def mine(client: TestClient) -> openai.OpenAI:
    return asker(client)


@pytest.fixture
def callers(settings: Settings) -> Iterator[dict[str, openai.OpenAI]]:
    """Of a server that needs keys: two callers, and an administrator."""
    back = stored()
    app = create_app(settings.model_copy(update={"access": "keys"}), open_backend=back.open)
    with serving_client(app) as client:
        yield {
            name: asker(client, back.keys.add(name, SCOPE_GROUPS[group])[1])
            for name, group in (("mine", "inference"), ("other", "inference"), ("admin", "admin"))
        }


def blobs(settings: Settings) -> set[str]:
    return {path.name for path in settings.back.blobs.rglob("*") if path.is_file()}


def test_a_file_from_upload_to_deletion(mine: openai.OpenAI, settings: Settings) -> None:
    made = mine.files.create(file=("a lines.jsonl", LINES), purpose="batch")
    assert (made.object, made.filename, made.bytes) == ("file", "a lines.jsonl", len(LINES))
    assert (made.purpose, made.status) == ("batch", "processed")
    assert made.expires_at == made.created_at + 2 * DAY
    assert mine.files.retrieve(made.id) == made
    assert mine.files.content(made.id).read() == LINES
    assert blobs(settings) == {hashlib.sha256(LINES).hexdigest()}
    assert mine.files.delete(made.id).deleted
    assert blobs(settings) == set()
    for ask in (mine.files.retrieve, mine.files.content, mine.files.delete):
        with pytest.raises(openai.NotFoundError, match=f"'{made.id}' does not exist"):
            ask(made.id)


def test_files_are_listed_page_by_page(mine: openai.OpenAI) -> None:
    made = [mine.files.create(file=(f"{name}.jsonl", LINES), purpose="batch").id for name in "abc"]
    page = mine.files.list(limit=2)
    assert [file.id for file in page.data] == made[:0:-1]
    assert page.has_more
    assert [file.id for file in mine.files.list(limit=1)] == made[::-1]  # the client goes on after each page
    assert [file.id for file in mine.files.list(order="asc", after=made[0])] == made[1:]
    assert list(mine.files.list(purpose="batch_output")) == []
    with pytest.raises(openai.NotFoundError):
        mine.files.list(after="file-none")


def test_the_same_bytes_are_stored_once_and_as_long_as_one_file_needs_them(
    mine: openai.OpenAI, settings: Settings
) -> None:
    first, second = (mine.files.create(file=("x", LINES), purpose="batch") for _ in range(2))
    assert len(blobs(settings)) == 1
    mine.files.delete(first.id)
    assert mine.files.content(second.id).read() == LINES


def test_another_caller_s_files_are_not_there(callers: dict[str, openai.OpenAI]) -> None:
    made = callers["mine"].files.create(file=("x", LINES), purpose="batch")
    other = callers["other"]
    assert list(other.files.list()) == []
    for ask in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(made.id)
    assert callers["mine"].files.retrieve(made.id) == callers["admin"].files.retrieve(made.id) == made


def test_files_are_bounded_by_number_and_size(callers: dict[str, openai.OpenAI]) -> None:
    mine, other = callers["mine"], callers["other"]
    for _ in range(3):
        mine.files.create(file=("x", LINES), purpose="batch")
    with pytest.raises(openai.ConflictError, match="you have 3 files, of at most 3"):
        mine.files.create(file=("x", LINES), purpose="batch")
    other.files.create(file=("x", LINES), purpose="batch")
    with pytest.raises(openai.ConflictError, match="this server has 4 files, of at most 4"):
        other.files.create(file=("x", LINES), purpose="batch")
    mine.files.delete(next(iter(mine.files.list())).id)
    with pytest.raises(openai.APIStatusError, match="more than 4096 bytes") as raised:
        mine.files.create(file=("x", bytes(4097)), purpose="batch")
    assert raised.value.status_code == 413


def test_an_earlier_expiry_can_be_asked_for(mine: openai.OpenAI) -> None:
    for seconds, kept in ((3600, 3600), (30 * DAY, 2 * DAY)):
        made = mine.files.create(
            file=("x", LINES), purpose="batch", expires_after={"anchor": "created_at", "seconds": seconds}
        )
        assert made.expires_at == made.created_at + kept


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "vision"}, "purpose"),
        ({}, "purpose"),
        ({"purpose": "batch", "expires_after[seconds]": "5"}, "expires_after[seconds]"),
        ({"purpose": "batch", "expires_after[anchor]": "now"}, "expires_after[anchor]"),
        ({"purpose": "batch", "model": "x"}, "model"),
    ],
)
def test_wrong_forms(client: TestClient, settings: Settings, fields: dict[str, str], param: str) -> None:
    answer = client.post("/v1/files", data=fields, files={"file": ("x", LINES)})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert blobs(settings) == set()
    assert list(settings.back.staging.iterdir()) == []


def test_an_upload_without_a_file(client: TestClient) -> None:
    answer = client.post("/v1/files", data={"purpose": "batch"}, files={"other": b""})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")


def test_content_can_be_fetched_in_ranges_and_is_no_page(client: TestClient) -> None:
    form: Any = {"data": {"purpose": "batch"}, "files": {"file": ('"; x=".html', b"<script>0</script>")}}
    made = client.post("/v1/files", **form).json()
    answer = client.get(f"/v1/files/{made['id']}/content", headers={"Range": "bytes=1-6"})
    assert (answer.status_code, answer.content) == (206, b"script")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == f'attachment; filename="{made["id"]}.jsonl"'


def test_files_outlive_a_restart(settings: Settings) -> None:
    with serving_client(create_app(settings, open_backend=stored().open)) as client:
        made = asker(client).files.create(file=("x", LINES), purpose="batch")
    with serving_client(create_app(settings, open_backend=stored().open)) as client:
        assert asker(client).files.content(made.id).read() == LINES
