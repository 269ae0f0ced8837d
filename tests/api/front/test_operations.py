"""Health, metrics, the OpenAPI document, the pages, and what every answer has."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from openapi_spec_validator import validate
from starlette.applications import Starlette
from starlette.testclient import TestClient

from api.app import create_app
from api.config import Settings
from api.front.routes import ENDPOINTS
from tests.api.asgi import Call
from tests.api.conftest import Run, running, serving_client
from tests.api.fakes import FakeBack


def test_health(client: TestClient, back: FakeBack) -> None:
    assert client.get("/health/live").json()["status"] == "live"
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()["status"], ready.json()["reasons"]) == (200, "ready", [])
    back.cluster.ready = False
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.headers["retry-after"]) == (503, "2")
    assert "mini-lm" in ready.json()["reasons"][0]
    assert client.get("/health/live").status_code == 200


def test_metrics(client: TestClient) -> None:
    client.post("/v1/generate", json={"prompt": "a b", "stream": True})
    client.post("/v1/generate", json={"prompt": "a b", "n": 0})
    client.get("/v1/models/some-name")
    client.get("/nowhere/at/all")
    text = client.get("/metrics").text
    for line in (
        'lmaas_http_requests_total{method="POST",route="/v1/generate",status="200"} 1.0',
        'lmaas_http_requests_total{method="POST",route="/v1/generate",status="422"} 1.0',
        'lmaas_http_requests_total{method="GET",route="/v1/models/{name}",status="404"} 1.0',
        'lmaas_http_requests_total{method="GET",route="none",status="404"} 1.0',
        'lmaas_task_outcomes_total{outcome="done",type="generate"} 1.0',
        'lmaas_task_time_to_first_token_seconds_count{model="mini-lm"} 1.0',
        'lmaas_task_inter_token_seconds_count{model="mini-lm"} 2.0',
        'lmaas_task_prompt_tokens_total{model="mini-lm"} 2.0',
        'lmaas_task_completion_tokens_total{model="mini-lm"} 3.0',
        'lmaas_task_in_flight{type="generate"} 0.0',
        'lmaas_http_request_duration_seconds_bucket{le="0.0005",method="POST",route="/v1/generate"}',
        "lmaas_http_requests_in_flight 1.0",
        "lmaas_running_sequences 0",
    ):
        assert line in text
    families = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(families) == len(set(families))


def test_the_openapi_document_is_valid_and_complete(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    validate(document)
    assert document["openapi"] == "3.1.0"
    served = {(endpoint.method.lower(), endpoint.path) for endpoint in ENDPOINTS}
    described = {(method, path) for path, item in document["paths"].items() for method in item}
    assert described == served
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))


def test_every_route_is_there(client: TestClient, app: Starlette) -> None:
    """Against the router itself: each described path is matched, and answers OPTIONS with its methods."""
    for path in {endpoint.path for endpoint in ENDPOINTS}:
        answer = client.options(path.replace("{", "").replace("}", ""))
        assert answer.status_code == 204
        methods = {endpoint.method for endpoint in ENDPOINTS if endpoint.path == path}
        assert methods <= set(answer.headers["allow"].split(", "))


def test_fields_of_the_schema_are_described(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    properties = schemas["GenerateParameters"]["properties"]
    assert all(field.get("description") for field in properties.values())
    assert properties["top_p"]["maximum"] == 1
    assert schemas["GenerateParameters"]["additionalProperties"] is False


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_need_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page.text)
    assert "/*" not in page.text.split("<body>")[0].replace("/* */", "")
    assert "<!--" not in page.text


def test_the_reference_lists_every_route(client: TestClient) -> None:
    page = client.get("/docs").text
    for endpoint in ENDPOINTS:
        assert f"<code>{endpoint.path}</code>" in page
    assert "max_tokens" in page


def test_request_ids(client: TestClient) -> None:
    kept = client.get("/health/live", headers={"x-request-id": "abc-1.2:3"})
    assert kept.headers["x-request-id"] == "abc-1.2:3"
    for bad in (b"", b"a b", b"x" * 200, b"\xe9", b"a;b"):
        made = client.get("/health/live", headers={b"x-request-id": bad})
        assert re.fullmatch("[0-9a-f]{24}", made.headers["x-request-id"])
    for answer in (
        client.get("/nope"),
        client.put("/v1/generate"),
        client.options("/"),
        client.head("/docs"),
    ):
        assert answer.headers["x-request-id"]


def test_methods(client: TestClient) -> None:
    wrong = client.put("/v1/models")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    assert wrong.json()["type"] == "/docs#wrong-method"
    head = client.head("/v1/models")
    assert (head.status_code, head.content) == (200, b"")
    assert client.head("/v1/generate?prompt=a").status_code == 405  # it would compute for nothing
    options = client.options("/v1/models")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")


def test_pages_of_other_sites_change_nothing(client: TestClient, back: FakeBack) -> None:
    other = {"sec-fetch-site": "cross-site"}
    own = {"sec-fetch-site": "same-origin", "host": "localhost:8080"}
    answer = client.delete("/v1/models/mini-lm", headers=other)
    assert (answer.status_code, answer.json()["type"]) == (403, "/docs#cross-site")
    assert client.post("/v1/generate", json={"prompt": "a"}, headers=other).status_code == 403
    assert client.get("/v1/models/mini-lm", headers=other).status_code == 200
    assert client.delete("/v1/models/mini-lm", headers=own).status_code == 204


BROWSER = [{"sec-fetch-site": "same-origin"}, {"origin": "http://rebound.example:8080"}, {"origin": "null"}]


@pytest.mark.parametrize("said", BROWSER)
def test_a_name_that_a_site_could_have_changes_nothing(client: TestClient, said: dict[str, str]) -> None:
    for host in ("rebound.example:8080", "localhost.rebound.example", "127.0.0.1.rebound.example", "x]"):
        answer = client.delete("/v1/models/mini-lm", headers={**said, "host": host})
        assert (answer.status_code, answer.json()["type"]) == (403, "/docs#cross-site")
        assert client.get("/v1/models/mini-lm", headers={**said, "host": host}).status_code == 200
    for host in ("localhost", "LOCALHOST.:8080", "127.0.0.1:8080", "192.0.2.1", "[::1]:8080", "[::1]"):
        answer = client.post("/v1/generate", json={"prompt": "a"}, headers={**said, "host": host})
        assert answer.status_code == 200, host


def test_what_is_no_browser_may_use_any_name(client: TestClient) -> None:
    headers = {"host": "lmaas.internal.example"}
    assert client.post("/v1/generate", json={"prompt": "a"}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("bound", "status"),
    [("0.0.0.0", 200), ("192.0.2.1", 200), ("lab.example", 200), ("localhost", 403), ("::1", 403)],
)
def test_only_a_server_on_loopback_minds_its_name(
    settings: Settings, back: FakeBack, bound: str, status: int
) -> None:
    app = create_app(settings.model_copy(update={"host": bound}), open_backend=back.open)
    headers = {"origin": "http://rebound.example", "host": "rebound.example"}
    with serving_client(app) as client:
        answer = client.post("/v1/generate", json={"prompt": "a"}, headers=headers)
    assert answer.status_code == status


def test_unknown_routes_get_a_hint(client: TestClient) -> None:
    problem = client.get("/v1/generat").json()
    assert problem["status"] == 404
    assert "did you mean /v1/generate?" in problem["detail"]
    assert "/docs" in client.get("/zzz").json()["detail"]


def test_a_defect_is_a_500_without_a_trace(
    client: TestClient, back: FakeBack, caplog: pytest.LogCaptureFixture
) -> None:
    back.cluster.classify_error = KeyError("secret detail")
    answer = client.post("/v1/classify", json={"input": "a"})
    assert (answer.status_code, answer.json()["type"]) == (500, "/docs#server-fault")
    assert "secret" not in answer.text
    assert "secret detail" in caplog.text
    back.cluster.servers = None  # type: ignore[assignment, method-assign]
    answer = client.get("/v1/servers")
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in answer.text


def test_the_access_log(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lmaas.access"):
        client.get("/v1/models")
        client.get("/health/live")
    (record,) = [record for record in caplog.records if record.name == "lmaas.access"]
    fields: dict[str, Any] = record.fields  # type: ignore[attr-defined]
    assert (fields["method"], fields["path"], fields["status"]) == ("GET", "/v1/models", 200)


def test_a_chunked_body_is_limited_too(app: Starlette, run: Run) -> None:
    async def test() -> None:
        async with running(app):
            headers = {"content-type": "application/json"}
            chunks = [b'{"prompt": "'] + [b"a" * 100_000] * 12
            call = Call(app, "POST", "/v1/generate", headers=headers, chunks=chunks)
            await call.done()
            assert call.status == 413
            assert b"1048576" in call.body

    run(test)
