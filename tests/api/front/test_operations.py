"""Health, metrics, the OpenAPI document, the pages, and what every answer has."""

from __future__ import annotations

import dataclasses
import logging
import re
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from api.back.store.records import now
from api.caller import Caller
from api.errors import StoreUnavailable
from api.front.routes import ENDPOINTS
from api.middle.schemas.generate import NextParameters
from runtime.contract import Kind
from tests.api.asgi import Call
from tests.api.conftest import Run, running
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
    serving = client.get("/health/serving")
    assert (serving.status_code, serving.headers["retry-after"]) == (503, "2")
    assert serving.json() == {"status": "not ready"}
    back.cluster.ready = True
    serving = client.get("/health/serving", headers={"host": "10.1.2.3:8080"})  # as Kubernetes asks
    assert (serving.status_code, serving.json()) == (200, {"status": "ready"})


def test_a_replica_that_is_away_is_a_warning(client: TestClient, back: FakeBack) -> None:
    back.cluster.away.append("mini-lm/1 on triton-1 is unhealthy: its server is gone")
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()["reasons"]) == (200, [])
    assert ready.json()["warnings"] == back.cluster.away


def test_capacity_is_explained(client: TestClient) -> None:
    client.patch("/v1/deployments/d-mini-lm", json={"autoscale": {"max": 2}})
    answer = client.get("/v1/capacity").json()
    found = next(each for each in answer["data"] if each["model"] == "mini-lm")
    assert (found["arrival_rate"], found["capacity"], found["wanted"], found["missing"]) == (12.0, 6.0, 3, 2)
    assert found["autoscale"] == {"min": 1, "max": 2, "target_utilisation": 0.7}
    assert found["reason"].startswith("12.0 requests/s arrive")
    metrics = client.get("/metrics").text
    for line in (
        'lmaas_wanted_replicas{model="mini-lm",version="1"} 3.0',
        'lmaas_arrival_rate{model="mini-lm",version="1"} 12.0',
        'lmaas_replica_capacity{model="mini-lm",version="1"} 6.0',
        'lmaas_utilisation_ratio{model="mini-lm",version="1"} 2.0',
    ):
        assert line in metrics


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
        'lmaas_task_time_to_first_token_seconds_count{model="mini-lm",type="generate"} 1.0',
        'lmaas_task_inter_token_latency_seconds_count{model="mini-lm",type="generate"} 2.0',
        'lmaas_task_prompt_tokens_total{model="mini-lm"} 2.0',
        'lmaas_task_generation_tokens_total{model="mini-lm"} 3.0',
        'lmaas_task_in_flight{type="generate"} 0.0',
        'lmaas_http_request_duration_seconds_bucket{le="0.0005",method="POST",route="/v1/generate"}',
        "lmaas_http_requests_in_flight 1.0",
        'lmaas_task_duration_seconds_count{model="mini-lm",type="generate"} 1.0',
        'lmaas_request_decode_time_seconds_count{model="mini-lm"} 1.0',
        'lmaas_deployments{state="failed"} 0.0',
        'lmaas_servers{state="ready"} 1.0',
        'lmaas_deployment_rollbacks_total{model="mini-lm"} 2.0',
        'lmaas_server_sessions{server="triton-0"} 1.0',
        "process_open_fds",
        "lmaas_running_sequences 0",
    ):
        assert line in text
    families = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(families) == len(set(families))


HOSTILE = 'h0stile"} 1\nlmaas_forged{a="'


def test_no_label_holds_what_a_caller_wrote(client: TestClient, back: FakeBack) -> None:
    """Not of a task or route that is there, and not of one that is not."""
    back.models.add_ready("h0stile-not-deployed", Kind.LM)
    for name in (HOSTILE, "h0stile-not-deployed"):
        for path in ("/v1/generate", "/v1/completions", "/v1/score"):
            body = {"model": name, "prompt": "a", "continuations": ["b"], "type": name}
            assert client.post(path, json=body).status_code >= 400
        client.post("/v1/tasks", json={"type": name, "parameters": {"model": name}})
        client.post("/v1/tasks", json={"type": "generate", "parameters": {"model": name, "prompt": "a"}})
        client.get(f"/v1/models/{quote(name)}", headers={"Authorization": f"Bearer {name[:8]}"})
        client.get(f"/{quote(name)}", headers={"X-Request-Id": "h0stile", "Origin": "http://h0stile.test"})
    client.request("H0STILE", "/v1/models")
    client.post("/v1/generate", json={"prompt": "a"})
    text = client.get("/metrics").text
    assert "h0stile" not in text.lower()
    labels = {
        (label, value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for label, value in sample.labels.items()
    }
    assert {value for label, value in labels if label == "model"} <= {
        each.model for each in back.cluster.deployments()
    } | {"none"}
    routes = {endpoint.path for endpoint in ENDPOINTS} | {"none"}
    assert {value for label, value in labels if label == "route"} <= routes


def test_refusals_by_reason(client: TestClient, app: Starlette, back: FakeBack) -> None:
    app.state.appliance.service.tasks.admission._max_in_flight = 0
    assert client.post("/v1/generate", json={"prompt": "a"}).status_code == 429
    back.tasks.failure = StoreUnavailable("locked")
    assert client.post("/v1/tasks", json={"type": "next", "parameters": {"prompt": "a"}}).status_code == 503
    text = client.get("/metrics").text
    assert 'lmaas_http_refusals_total{reason="in-flight",route="/v1/generate"} 1.0' in text
    assert 'lmaas_http_refusals_total{reason="store-unavailable",route="/v1/tasks"} 1.0' in text


def test_the_age_of_the_queue(app: Starlette, run: Run) -> None:
    async def test() -> None:
        async with running(app):
            tasks = app.state.appliance.service.tasks
            assert tasks.metrics.registry.get_sample_value("lmaas_task_queue_age_seconds") == 0
            await app.state.appliance.service.dispatcher.stop()  # so that it waits
            job = await tasks.enqueue("next", NextParameters(prompt="a"), Caller("192.0.2.7"))
            job.record = dataclasses.replace(job.record, created=now() - timedelta(seconds=100))
            age = tasks.metrics.registry.get_sample_value("lmaas_task_queue_age_seconds")
            assert 100 <= age < 200

    run(test)


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


def test_files_of_the_pages_are_asked_for_again(client: TestClient) -> None:
    """And sent only where they changed."""
    for name in re.findall(r"/pages/([\w.]+)", client.get("/").text + client.get("/docs").text):
        sent = client.get(f"/pages/{name}")
        assert sent.headers["content-type"].startswith(("text/css", "text/javascript"))
        assert sent.headers["cache-control"] == "no-cache"
        again = client.get(f"/pages/{name}", headers={"if-none-match": sent.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get("/pages/console.html").status_code == 404


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_need_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page.text)
    assert "unsafe-inline" not in page.headers["content-security-policy"]
    assert not re.search(r"<style| style=|<script(?![^>]* src=)| on[a-z]+=", page.text)
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
            chunks = [b'{"prompt": "'] + [b"a" * 100_000] * 24
            call = Call(app, "POST", "/v1/generate", headers=headers, chunks=chunks)
            await call.done()
            assert call.status == 413
            assert b"2097152" in call.body

    run(test)


def test_an_event_is_described_with_its_data(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, payload in (("/v1/completions", "Completion"), ("/v1/chat/completions", "ChatChunk")):
        found = document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]["schema"]
        data, last = found["properties"]["data"]["anyOf"]
        assert last == {"const": "[DONE]"}
        assert (data["type"], found["required"]) == ("string", ["data"])
        assert data["contentSchema"] == {"$ref": f"#/components/schemas/{payload}"}
