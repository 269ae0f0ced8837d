"""A version's calibration over HTTP, and what answers have of it."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.api.fakes import FakeBack

PATH = "/v1/models/mini-sentiment/versions/1/calibration"
FOUND = {
    "temperature": 1.5,
    "threshold": 0.95,
    "criterion": "accuracy where answered >= 0.95",
    "rows": 200,
    "figures": {"log loss": 0.4},
}


def test_it_is_stored_shown_and_deleted(client: TestClient) -> None:
    assert client.get(PATH).status_code == 404
    put = client.put(PATH, json=FOUND)
    assert put.json()["calibration"] == FOUND
    assert client.get(PATH).json() == FOUND
    assert client.get("/v1/models/mini-sentiment/versions/latest").json()["calibration"] == FOUND
    assert client.delete(PATH).status_code == 204
    assert client.get(PATH).status_code == 404
    assert client.get(PATH.replace("/1/", "/7/")).status_code == 404


def test_history_says_who_calibrated(client: TestClient) -> None:
    client.put(PATH, json=FOUND)
    client.delete(PATH)
    entries = client.get("/v1/models/mini-sentiment/history").json()["data"]
    assert [(e["action"], e["version"], e["precision"]) for e in entries] == 2 * [("calibrate", 1, None)]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"temperature": 0}, "temperature"),
        ({"temperature": 1e9}, "temperature"),
        ({"threshold": 1.1}, "threshold"),
        ({"figures": {"a" * 201: 1.0}}, "figures"),
        ({"bias": 1}, "bias"),
    ],
)
def test_what_is_wrong_is_named(client: TestClient, change: dict[str, Any], field: str) -> None:
    answer = client.put(PATH, json={**FOUND, **change})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith(field)


def test_a_language_model_has_none(client: TestClient) -> None:
    answer = client.put("/v1/models/mini-lm/versions/1/calibration", json=FOUND)
    assert answer.status_code == 409
    assert "language model" in answer.json()["detail"]


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mini-sentiment": ("classify", {"input": ["a", "b"]}),
    "mini-nli": ("infer", {"premise": "a", "hypothesis": "b"}),
    "mini-nlu": ("nlu", {"input": "a"}),
}


@pytest.mark.parametrize("model", BODIES)
def test_answers_are_corrected_and_abstain_under_the_threshold(
    client: TestClient, back: FakeBack, model: str
) -> None:
    path, body = BODIES[model]

    def ask(**more: bool) -> Any:
        return client.post(f"/v1/{path}", json={**body, **more}).json()

    before = ask()
    assert before["calibration"] is None
    assert not before["results"][0]["abstained"]
    client.put(f"/v1/models/{model}/versions/1/calibration", json=FOUND)
    after = ask()
    assert after["calibration"] == {"temperature": 1.5, "threshold": 0.95}
    # The highest score of the fake is at most 0.9.
    assert all(result["abstained"] for result in after["results"])
    assert [result.get("label") for result in after["results"]] == [
        result.get("label") for result in before["results"]
    ]
    assert ask(raw_scores=True) == before
    assert back.cluster.temperatures == [None, 1.5, None]


def test_a_temperature_of_one_changes_nothing(client: TestClient, back: FakeBack) -> None:
    client.put(PATH, json={"threshold": 0.5})
    answer = client.post("/v1/classify", json={"input": "a"}).json()
    assert answer["calibration"] == {"temperature": 1.0, "threshold": 0.5}
    assert not answer["results"][0]["abstained"]
    assert back.cluster.temperatures == [None]
