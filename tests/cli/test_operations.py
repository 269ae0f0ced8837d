"""`lmaas capacity`: the numbers of an appliance, in words. `lmaas deploy` with bounds for its replicas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from cli import lifecycle, operations
from client.http import Client
from lmaas import app

ANSWER: dict[str, Any] = {
    "deployment_id": "d-1", "model": "mini-lm", "version": 1, "replicas": 1, "wanted": 3, "possible": 2,
    "missing": 2, "arrival_rate": 12.0, "waiting": 5, "capacity": 6.04, "basis": "live traffic",
    "autoscale": None, "utilisation": 1.99, "target_utilisation": 0.7,
    "reason": "12.0 requests/s arrive and 5 wait",
}  # fmt: skip
UNKNOWN = ANSWER | {"capacity": None, "utilisation": None, "autoscale": {"min": 0, "max": 2}}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `GET /v1/capacity` lists."""
    listed: list[dict[str, Any]] = []

    def respond(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/capacity"
        return httpx.Response(200, json={"data": listed})

    @contextmanager
    def connect(url: str) -> Iterator[Client]:
        with httpx.Client(transport=httpx.MockTransport(respond), base_url=url) as http:
            yield Client(http=http)

    monkeypatch.setattr(operations, "Client", connect)
    return listed


def test_capacity_is_explained_in_words(answers: list[dict[str, Any]]) -> None:
    answers += [ANSWER, UNKNOWN]
    lines = [" ".join(line.split()) for line in CliRunner().invoke(app, ["capacity"]).output.splitlines()]
    assert lines[:6] == [
        "mini-lm/1: 1 replicas, 3 wanted",
        "asked 12.0 requests/s, 5 waiting",
        "a replica gives 6.0 requests/s (live traffic), 199% of it used",
        "missing 2 replicas; the servers hold 2",
        "scaled by hand",
        "because 12.0 requests/s arrive and 5 wait",
    ]
    assert "a replica gives not known (live traffic)" in lines
    assert "scaled from 0 to 2" in lines


def test_a_deployment_gets_bounds_for_its_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        record = {"model": "m", "version": 1, "precision": "int8", "id": "d-1", "note": None}
        return httpx.Response(201, json=record)

    @contextmanager
    def connect(url: str) -> Iterator[Client]:
        with httpx.Client(transport=httpx.MockTransport(respond), base_url=url) as http:
            yield Client(http=http)

    monkeypatch.setattr(lifecycle, "Client", connect)
    bounds = ["--min-replicas", "0", "--max-replicas", "4"]
    assert CliRunner().invoke(app, ["deploy", "m", *bounds]).exit_code == 0
    assert CliRunner().invoke(app, ["deploy", "m"]).exit_code == 0
    assert [each.get("autoscale") for each in sent] == [{"min": 0, "max": 4}, None]


def test_without_deployments_it_says_so(answers: list[dict[str, Any]]) -> None:
    assert CliRunner().invoke(app, ["capacity"]).output.strip() == "no deployments"
