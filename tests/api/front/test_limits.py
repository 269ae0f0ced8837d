"""Limits of API keys over HTTP: what is refused, until when, and what stands in the head of an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.caller import ALL_SCOPES, Limits
from api.config import Settings
from tests.api.asgi import Call, until
from tests.api.conftest import Run, running, serving_client
from tests.api.fakes import FakeBack
from tests.api.front.test_streams import Gate


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access": "keys"})


@pytest.fixture
def client(settings: Settings, back: FakeBack) -> Iterator[TestClient]:
    with serving_client(create_app(settings, open_backend=back.open)) as client:
        yield client


@pytest.fixture
def limited(client: TestClient, back: FakeBack) -> Callable[..., TestClient]:
    """The client with a key of these limits."""

    def make(**limits: Any) -> TestClient:
        _, key = back.keys.add("me", ALL_SCOPES, Limits(**limits))
        client.headers["authorization"] = f"Bearer {key}"
        return client

    return make


BODY = {"prompt": "a b", "max_tokens": 3}


def test_requests_of_a_minute(limited: Callable[..., TestClient]) -> None:
    client = limited(requests_per_minute=2)
    left = []
    for path in ("/v1/generate", "/v1/completions"):
        answer = client.post(path, json=BODY)
        assert answer.status_code == 200
        left.append(answer.headers["x-ratelimit-remaining-requests"])
    assert left == ["1", "0"]
    refused = client.post("/v1/completions", json=BODY)
    assert (refused.status_code, refused.json()["type"]) == (429, "/docs#rate-limited")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert 50 < float(refused.headers["x-ratelimit-reset-requests"].rstrip("s")) <= 60
    task = {"type": "generate", "parameters": BODY}
    assert client.post("/v1/tasks", json=task).status_code == 429
    assert client.get("/v1/tasks").status_code == 200  # to look costs nothing


def test_tokens_are_those_that_were_measured(limited: Callable[..., TestClient]) -> None:
    client = limited(tokens_per_minute=1000)
    answer = client.post("/v1/generate", json={**BODY, "max_tokens": 900})
    used = answer.json()["usage"]["total_tokens"]
    left = int(client.get("/v1/models").headers["x-ratelimit-remaining-tokens"])
    assert 0 <= left - (1000 - used) <= 5  # it fills meanwhile
    assert client.post("/v1/generate", json={**BODY, "max_tokens": 5000}).status_code == 429


def test_answers_of_a_key_without_rates_say_nothing(limited: Callable[..., TestClient]) -> None:
    answer = limited(max_in_flight=4).post("/v1/generate", json=BODY)
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


def test_only_the_models_that_are_allowed(limited: Callable[..., TestClient], back: FakeBack) -> None:
    client = limited(models=frozenset({"mini-lm"}))
    assert client.post("/v1/generate", json={**BODY, "model": "mini-lm"}).status_code == 200
    task = {"type": "classify", "parameters": {"input": "a", "model": "mini-sentiment"}}
    for answer in (
        client.post("/v1/generate", json=BODY),
        client.post("/v1/classify", json={"input": "a", "model": "mini-sentiment"}),
        client.post("/v1/tasks", json=task),
        client.get("/v1/models/mini-nli"),
        client.get("/v1/models/mini-nli/versions/1/archive"),
        client.delete("/v1/models/mini-nli"),
    ):
        assert (answer.status_code, "mini-lm" in answer.json()["detail"]) == (403, True)
    assert client.get("/v1/models/mini-lm").status_code == 200
    assert "mini-nli" in back.models.records


def test_a_stream_is_in_flight_until_it_ends(settings: Settings, back: FakeBack, run: Run) -> None:
    _, key = back.keys.add("me", ALL_SCOPES, Limits(max_in_flight=1, tokens_per_minute=10_000))
    head = {"authorization": f"Bearer {key}", "host": "localhost"}

    async def test() -> None:
        gate = Gate()
        back.cluster.reply = gate.reply
        app = create_app(settings, open_backend=back.open)
        async with running(app):
            first = Call.json(app, "/v1/generate", {**BODY, "stream": True}, **head)
            await until(lambda: back.cluster.running)
            second = Call.json(app, "/v1/generate", BODY, **head)
            await second.done()
            assert second.status == 429
            first.leave()
            await first.done()
            # It costs what was estimated: the last token alone would be free otherwise.
            (left,) = app.state.appliance.service.allowances(caller_of(back))
            assert left.remaining < 10_000
            gate.open()
            third = Call.json(app, "/v1/generate", BODY, **head)
            await third.done()
            assert third.status == 200

    run(test)


def caller_of(back: FakeBack) -> Any:
    return next(iter(back.tasks.records.values())).caller
