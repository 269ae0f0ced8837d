"""With keys on, every route but liveness and the two pages asks for one, in the form that clients expect."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.caller import ALL_SCOPES, SCOPE_GROUPS, Limits
from api.config import Settings
from api.front.endpoint import Endpoint
from api.front.problems import OPENAI_ROUTES
from api.front.routes import ENDPOINTS
from tests.api.conftest import serving_client
from tests.api.fakes import FakeBack

# The pages hold nothing of this server's, and ask for the key.
KEYLESS = {"/health/live", "/health/serving", "/health", "/ping", "/", "/docs", "/pages/{file}"}
WRONG = "lmaas_000000000000_" + "z" * 43
IDS = [f"{endpoint.method} {endpoint.path}" for endpoint in ENDPOINTS]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keyed(settings: Settings, back: FakeBack) -> Iterator[TestClient]:
    """A server that needs keys."""
    changed = settings.model_copy(update={"access": "keys"})
    with serving_client(create_app(changed, open_backend=back.open)) as client:
        yield client


def path_of(endpoint: Endpoint) -> str:
    return endpoint.path.format(name="name", version="version", id="id", digest="digest", file="style.css")


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=IDS)
@pytest.mark.parametrize("headers", [{}, bearer(WRONG), {"Authorization": f"Basic {WRONG}"}], ids=str)
def test_no_route_answers_without_a_key(
    keyed: TestClient, back: FakeBack, endpoint: Endpoint, headers: dict[str, str]
) -> None:
    back.keys.add("somebody")
    answer = keyed.request(endpoint.method, path_of(endpoint), headers=headers)
    if endpoint.path in KEYLESS:
        assert answer.status_code == 200
        return
    problem = answer.json()
    assert (answer.status_code, problem["type"], problem["status"]) == (401, "/docs#unauthorized", 401)
    assert answer.headers["www-authenticate"] == 'Bearer realm="lmaas"'
    assert answer.headers["content-type"] == "application/problem+json"
    if endpoint.path in OPENAI_ROUTES:
        assert problem["error"]["code"] == "invalid_api_key"
        assert problem["error"]["type"] == "invalid_request_error"
    assert back.cluster.requests == []


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=IDS)
def test_every_route_checks_the_scope_of_the_key(
    keyed: TestClient, back: FakeBack, endpoint: Endpoint
) -> None:
    lacking = ALL_SCOPES - {endpoint.scope}
    _, key = back.keys.add("lacking", lacking)
    answer = keyed.request(endpoint.method, path_of(endpoint), headers=bearer(key))
    if endpoint.scope is None:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["type"]) == (403, "/docs#forbidden")


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "TRACE"])
def test_other_methods_need_a_key_too(keyed: TestClient, back: FakeBack, method: str) -> None:
    _, key = back.keys.add("me")
    for path in ("/v1/models", "/v1/generate", "/metrics"):
        assert keyed.request(method, path).status_code == 401
        assert keyed.request(method, path, headers=bearer(key)).status_code != 401


def test_a_key_works_as_openai_s_clients_send_it(keyed: TestClient, back: FakeBack) -> None:
    record, key = back.keys.add("me", SCOPE_GROUPS["inference"])
    for headers in (bearer(key), {"authorization": f"bearer  {key} "}):
        answer = keyed.post("/v1/completions", json={"prompt": "a"}, headers=headers)
        assert answer.status_code == 200
    (first, second) = back.tasks.records.values()
    assert first.caller.key == second.caller.key == record.id
    assert [parameters["caller"] for _, parameters, _ in back.cluster.requests] == [record.id, record.id]
    assert keyed.get("/v1/servers", headers=bearer(key)).status_code == 403
    assert keyed.get("/metrics", headers=bearer(key)).status_code == 403
    assert keyed.get("/health/ready", headers=bearer(key)).status_code == 200


def test_limits_of_the_key_hold(keyed: TestClient, back: FakeBack) -> None:
    limits = Limits(max_queued=0)
    _, key = back.keys.add("me", ALL_SCOPES, limits)
    task = {"type": "generate", "parameters": {"prompt": "a"}}
    answer = keyed.post("/v1/tasks", json=task, headers=bearer(key))
    assert (answer.status_code, "of your tasks" in answer.json()["detail"]) == (429, True)


def test_a_key_in_the_address_counts_for_nothing(keyed: TestClient, back: FakeBack) -> None:
    """It would stand in logs and in histories."""
    _, key = back.keys.add("me")
    assert keyed.get("/v1/models", params={"api_key": key, "access_token": key}).status_code == 401


def test_callers_see_their_own_tasks_only(keyed: TestClient, back: FakeBack) -> None:
    inference = SCOPE_GROUPS["inference"]
    keys = {name: back.keys.add(name, inference)[1] for name in ("ann", "bob")}
    keys["root"] = back.keys.add("root")[1]
    ids = {}
    for name in ("ann", "bob"):
        task = {"type": "generate", "parameters": {"prompt": "a"}}
        ids[name] = keyed.post("/v1/tasks", json=task, headers=bearer(keys[name])).json()["id"]

    def seen(name: str, **query: str) -> list[str]:
        answer = keyed.get("/v1/tasks", params=query, headers=bearer(keys[name]))
        return [task["id"] for task in answer.json()["data"]] if answer.status_code == 200 else []

    assert (seen("ann"), seen("bob")) == ([ids["ann"]], [ids["bob"]])
    assert set(seen("root")) == set(ids.values())
    assert seen("ann", before=ids["bob"]) == []
    for name, status in (("ann", 200), ("root", 200), ("bob", 404)):
        headers = bearer(keys[name])
        for method, path in (("GET", ""), ("GET", "/events"), ("DELETE", "")):
            answer = keyed.request(method, f"/v1/tasks/{ids['ann']}{path}", headers=headers)
            assert answer.status_code == status, (name, method, path)
    unknown = keyed.get("/v1/tasks/0", headers=bearer(keys["bob"])).json()
    foreign = keyed.get(f"/v1/tasks/{ids['ann']}", headers=bearer(keys["bob"])).json()
    assert foreign["type"] == unknown["type"]
    shown = keyed.get(f"/v1/tasks/{ids['ann']}", headers=bearer(keys["root"])).json()
    assert shown["key"] == keys["ann"].rpartition("_")[0]


def test_the_reference_says_what_each_route_needs(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["api_key"]["scheme"] == "bearer"
    for endpoint in ENDPOINTS:
        security = document["paths"][endpoint.path][endpoint.method.lower()].get("security")
        if endpoint.path in KEYLESS:
            assert security is None
        else:
            scopes = [] if endpoint.scope is None else [endpoint.scope.value]
            assert security == [{"api_key": scopes}, {}]
    assert "Scope: models:write." in client.get("/docs").text


def test_the_log_names_the_key_and_has_none(
    keyed: TestClient, back: FakeBack, caplog: pytest.LogCaptureFixture
) -> None:
    record, key = back.keys.add("me")
    with caplog.at_level("DEBUG"):
        keyed.get("/v1/models", headers=bearer(key))
        keyed.get("/v1/models", headers=bearer(WRONG))
    lines = [line for line in caplog.records if line.name == "lmaas.access"]
    assert [line.fields["key"] for line in lines] == [record.id, None]  # type: ignore[attr-defined]
    assert key.rpartition("_")[2] not in caplog.text
