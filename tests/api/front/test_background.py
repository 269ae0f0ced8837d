"""`Idempotency-Key`, and `Prefer: respond-async` on the task routes."""

from __future__ import annotations

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from api.app import create_app
from api.config import Settings
from tests.api.conftest import serving_client
from tests.api.fakes import FakeBack

SUBMIT = {"type": "generate", "parameters": {"prompt": "a b"}}
PREFERS = {"Prefer": "wait=10, respond-async"}


def test_a_key_gives_the_same_task(client: TestClient, back: FakeBack) -> None:
    key = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
    answers = [client.post("/v1/tasks", json=SUBMIT, headers=key) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {202}
    (location,) = {answer.headers["location"] for answer in answers}
    client.get(f"{location}/events")  # ends with the task
    again = client.post(
        "/v1/tasks", json=SUBMIT, headers={"Idempotency-Key": key["Idempotency-Key"].strip('"')}
    )
    assert (again.status_code, again.json()["state"]) == (202, "done")
    assert again.json()["result"]["choices"]
    assert len(back.tasks.records) == 1


def test_a_key_with_another_body_is_refused(client: TestClient) -> None:
    key = {"Idempotency-Key": "k"}
    first = client.post("/v1/tasks", json=SUBMIT, headers=key).json()
    for body in (
        {"type": "generate", "parameters": {"prompt": "b"}},
        {"type": "nlu", "parameters": {"input": "b"}},
    ):
        answer = client.post("/v1/tasks", json=body, headers=key)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "Idempotency-Key"
        assert first["id"] in answer.json()["detail"]


def test_a_key_is_its_caller_s(client: TestClient) -> None:
    answers = [
        client.post(
            "/v1/tasks", json=SUBMIT, headers={"Idempotency-Key": "k", "Authorization": f"Bearer {name}"}
        )
        for name in ("one", "two")
    ]
    assert answers[0].json()["id"] != answers[1].json()["id"]


@pytest.mark.parametrize("key", ["", '"', '"a', 'a"b', "a b", "é", "x" * 256, '"a\\"'])
def test_a_malformed_key(client: TestClient, key: str) -> None:
    answer = client.post("/v1/tasks", json=SUBMIT, headers={b"Idempotency-Key": key.encode()})
    assert answer.status_code == 400
    assert "Idempotency-Key must be" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body", "part"),
    [
        ("/v1/generate", {"prompt": "a", "stream": True}, "choices"),
        ("/v1/nlu", {"input": "a"}, "results"),
        ("/v1/score", {"prompt": "a", "continuations": ["b"]}, "scores"),
    ],
)
def test_a_task_route_answers_with_a_task(
    client: TestClient, path: str, body: dict[str, object], part: str
) -> None:
    headers = {**PREFERS, "Idempotency-Key": "k"}
    answer = client.post(path, json=body, headers=headers)
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.json()["asynchronous"]
    location = answer.headers["location"]
    client.get(f"{location}/events")
    assert part in client.get(location).json()["result"]
    assert client.post(path, json=body, headers=headers).json()["id"] == answer.json()["id"]
    assert client.post(path, json={**body, "stream": False}, headers={"Prefer": "wait=10"}).status_code != 202


def test_a_callback_is_taken_with_a_secret(settings: Settings, back: FakeBack) -> None:
    url = "https://example.com/hook"
    app = create_app(
        settings.model_copy(update={"callback_secret": SecretStr("0123456789")}), open_backend=back.open
    )
    with serving_client(app) as client:
        answer = client.post("/v1/tasks", json={**SUBMIT, "callback_url": url})
        assert (answer.status_code, answer.json()["callback_url"]) == (202, url)
        record = back.tasks.records[answer.json()["id"]]
        assert (record.callback_url, record.callback_due) == (url, record.created)
        refused = client.post("/v1/tasks", json={**SUBMIT, "callback_url": "http://127.0.0.1/"})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["field"] == "callback_url"


def test_a_callback_is_refused_without_a_secret(client: TestClient) -> None:
    answer = client.post("/v1/tasks", json={**SUBMIT, "callback_url": "https://example.com/"})
    assert answer.status_code == 422
    assert "LMAAS_CALLBACK_SECRET" in answer.json()["detail"]
