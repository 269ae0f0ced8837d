"""Every route names the scope that its caller needs, and is closed to callers without it."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from api.caller import ALL_SCOPES, Caller, Scope
from api.front import endpoint as module
from api.front.endpoint import Endpoint
from api.front.routes import ENDPOINTS
from tests.api.fakes import FakeBack

OPEN = {"/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/health/serving", "/v1/usage"}
OPEN |= {"/health", "/ping", "/version", "/pages/{file}"}
WRITES = {"POST", "PUT", "PATCH", "DELETE"}


def expected(endpoint: Endpoint) -> Scope | None:
    path = Path(endpoint.path)
    if endpoint.path in OPEN:
        return None
    if endpoint.path == "/metrics":
        return Scope.METRICS
    match path.parts[-1 if len(path.parts) == 2 else 2]:
        case "tasks" | "files" | "batches":
            return Scope.TASKS
        case "models" | "deployments":
            return Scope.MODELS_WRITE if endpoint.method in WRITES else Scope.MODELS_READ
        case "blobs":
            return Scope.MODELS_WRITE
        case "servers" | "audit" | "capacity":
            return Scope.ADMIN
    return Scope.INFER


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda item: f"{item.method} {item.path}")
def test_every_route_has_its_scope(endpoint: Endpoint) -> None:
    assert endpoint.scope is expected(endpoint)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda item: f"{item.method} {item.path}")
def test_a_caller_without_the_scope_is_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint
) -> None:
    async def identify(request: Request) -> Caller:
        return Caller("192.0.2.1", scopes=ALL_SCOPES - {endpoint.scope})

    monkeypatch.setattr(module, "identify", identify)
    path = endpoint.path.format(name="mini-lm", version="1", id="x", digest="x", file="style.css")
    answer = client.request(endpoint.method, path)
    if endpoint.scope is None:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["type"]) == (403, "/docs#forbidden")
        assert endpoint.scope.value in answer.json()["detail"]


def test_record_and_engine_know_the_caller(client: TestClient, back: FakeBack) -> None:
    """The engine counts requests by fairness key; the record has the caller, and not the API key."""
    headers = ("", "Bearer one", "bearer one ", "Bearer two", "Basic one")
    for authorization in headers:
        client.post("/v1/generate", json={"prompt": "a"}, headers={"Authorization": authorization})
    callers = [record.caller for record in back.tasks.records.values()]
    assert [caller.key == "" for caller in callers] == [True, False, False, False, True]
    assert len({caller.key for caller in callers}) == 3
    assert callers[1] == callers[2]
    assert not {"one", "two"} & {caller.key for caller in callers}
    assert {caller.address for caller in callers} == {"testclient"}
    assert [parameters["caller"] for _, parameters, _ in back.cluster.requests] == [
        caller.fairness_key for caller in callers
    ]
