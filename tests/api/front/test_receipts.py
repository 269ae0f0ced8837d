"""Receipts in every shape of an answer: one where it is asked for, none elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.api.asgi import events
from tests.api.fakes import FakeBack
from tests.api.replies import RECEIPT

EXPECTED: dict[str, Any] = {
    "model": "mini-lm",
    "version": 1,
    "requests": [json.loads(json.dumps(RECEIPT.to_json()))],
}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/generate": {"prompt": "a b"},
    "/v1/completions": {"prompt": "a b"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
}


@pytest.fixture(params=BODIES)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_answer_has_the_receipt(client: TestClient, back: FakeBack, path: str) -> None:
    answer = client.post(path, json={**BODIES[path], "receipt": True}).json()
    assert answer["receipt"] == EXPECTED
    assert back.cluster.requests[-1][1]["receipt"] is True
    assert "receipt" not in client.post(path, json=BODIES[path]).json()


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
def test_the_last_event_of_a_stream_has_it(client: TestClient, path: str, options: dict[str, Any]) -> None:
    asked = {**BODIES[path], "stream": True, **({} if path == "/v1/generate" else options)}
    for receipt in (True, False):
        answer = client.post(path, json={**asked, "receipt": receipt}).content
        pieces = [data for _, data in events(answer) if isinstance(data, dict)]
        *others, last = pieces
        assert [piece for piece in others if "receipt" in piece] == []
        assert last.get("receipt") == (EXPECTED if receipt else None)
        assert bool(last.get("usage")) is (path == "/v1/generate" or bool(options))
        assert (last["choices"] == []) is (path == "/v1/generate" or receipt or bool(options))


def test_one_for_each_prompt(client: TestClient) -> None:
    answer = client.post("/v1/generate", json={"prompt": ["a", "b", "c"], "receipt": True}).json()
    assert answer["receipt"]["requests"] == EXPECTED["requests"] * 3
