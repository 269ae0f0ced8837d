"""No page of another origin reads or does anything, with keys or without; an allowed page does all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.caller import SCOPE_GROUPS
from api.config import Settings
from api.front.endpoint import Endpoint
from api.front.routes import ENDPOINTS
from tests.api.asgi import events
from tests.api.conftest import serving_client
from tests.api.fakes import FakeBack

EVIL, APP = "https://evil.example", "https://app.example:8443"
HOST = {"host": "localhost:8080"}
FETCH = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}
# What a page of another origin can have a browser send: fetch with and without CORS, forms, images, frames.
FROM_PAGES = [
    {"origin": EVIL, **FETCH},
    {"origin": "null", **FETCH},
    {"origin": EVIL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"origin": EVIL},  # an old browser
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"},
    {"host": "evil.example:8080"},  # its name leads to this machine
    {"host": "evil.example:8080", "origin": "http://evil.example:8080", "sec-fetch-site": "same-origin"},
]
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
Serve = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def serve(settings: Settings, back: FakeBack) -> Serve:
    @contextmanager
    def start(**changes: str) -> Iterator[TestClient]:
        changed = Settings(**{**settings.model_dump(), **changes})
        with serving_client(create_app(changed, open_backend=back.open)) as client:
            yield client

    return start


@pytest.fixture(params=["keys", "auto"])
def server(request: pytest.FixtureRequest, serve: Serve) -> Iterator[TestClient]:
    """On loopback, with keys and without."""
    with serve(access=request.param, cors_origins=APP) as client:
        yield client


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda item: f"{item.method} {item.path}")
def test_no_page_reads_or_does_anything(server: TestClient, back: FakeBack, endpoint: Endpoint) -> None:
    """Even with a key that is valid, which a page cannot know."""
    _, key = back.keys.add("victim")
    path = endpoint.path.replace("{", "").replace("}", "")
    for sent in FROM_PAGES:
        for headers in ({**HOST, **sent}, {**HOST, **sent, "authorization": f"Bearer {key}"}):
            answer = server.request(endpoint.method, path, headers=headers)
            assert "access-control-allow-origin" not in answer.headers
            if endpoint.path in ("/health/live", "/health/serving"):  # one word that all may know
                assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            else:
                assert (answer.status_code, answer.json()["type"]) == (403, "/docs#cross-site"), sent
    assert not back.cluster.requests
    assert not back.audit.records
    assert not back.tasks.records


@pytest.mark.parametrize(
    "origin", [EVIL, "null", "http://app.example:8443", "https://app.example", f"{APP}.evil"]
)
def test_no_preflight_of_another_page_is_answered(server: TestClient, origin: str) -> None:
    for path in ("/v1/generate", "/v1/tasks", "/nowhere"):
        answer = server.options(path, headers={**HOST, "origin": origin, **PREFLIGHT})
        assert answer.status_code >= 400
        assert "access-control-allow-origin" not in answer.headers


def test_an_allowed_page_calls_and_streams(serve: Serve, back: FakeBack) -> None:
    _, key = back.keys.add("page", SCOPE_GROUPS["inference"])
    page = {**HOST, "origin": APP, **FETCH}
    with serve(access="keys", cors_origins=f"http://other.example, {APP}/") as client:
        preflight = client.options("/v1/generate", headers={**page, **PREFLIGHT})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == APP
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "access-control-allow-credentials" not in preflight.headers
        refused = client.post("/v1/generate", json={"prompt": "a"}, headers=page)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, APP)
        page["authorization"] = f"Bearer {key}"
        with client.stream(
            "POST", "/v1/generate", json={"prompt": "a", "stream": True}, headers=page
        ) as stream:
            assert stream.headers["access-control-allow-origin"] == APP
            assert "Origin" in stream.headers["vary"]
            assert events(stream.read())[-1][1]["usage"]["completion_tokens"] > 0
        assert client.get("/v1/generate?prompt=a", headers=page).status_code == 200
        assert client.get("/v1/servers", headers=page).status_code == 403
        assert "X-Request-Id" in stream.headers["access-control-expose-headers"]
        assert client.get("/nowhere", headers=page).headers["access-control-allow-origin"] == APP


def test_openai_s_javascript_client_calls_from_a_page_of_the_internet(serve: Serve) -> None:
    """Its own headers, a key that the preflight does not have, and a server in the user's own network."""
    sent = (
        "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-retry-count"
    )
    asked = {
        "origin": APP,
        "access-control-request-method": "POST",
        "access-control-request-headers": sent,
        "access-control-request-private-network": "true",
    }
    with serve(access="keys", cors_origins=APP) as client:
        preflight = client.options("/v1/chat/completions", headers=asked)
    assert preflight.status_code == 200
    assert set(preflight.headers["access-control-allow-headers"].split(",")) >= set(sent.split(","))
    assert preflight.headers["access-control-allow-private-network"] == "true"


def test_an_allowed_page_must_know_the_server_s_name(serve: Serve) -> None:
    with serve(cors_origins=APP) as client:
        rebound = {"host": "evil.example", "origin": APP}
        assert client.get("/v1/models", headers=rebound).status_code == 403
        preflight = client.options("/v1/models", headers={**rebound, **PREFLIGHT})
        assert (preflight.status_code, preflight.json()["type"]) == (403, "/docs#cross-site")
        assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_without_the_setting_no_page_is_allowed(client: TestClient) -> None:
    answer = client.options("/v1/generate", headers={**HOST, "origin": APP, **PREFLIGHT})
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "LMAAS_CORS_ORIGINS" in answer.json()["detail"]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda item: f"{item.method} {item.path}")
def test_every_answer_says_what_browsers_may_do(client: TestClient, endpoint: Endpoint) -> None:
    path = endpoint.path.replace("{", "").replace("}", "")
    for answer in (client.request(endpoint.method, path), client.request("TRACE", path)):
        headers = answer.headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert len(headers.get_list("content-security-policy")) == 1
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "strict-transport-security" not in headers  # no TLS


def test_tls_is_asked_for_again(client: TestClient) -> None:
    for host, sent in (("lmaas.example", True), ("localhost:8080", False), ("LOCALHOST.", False)):
        answer = client.get("https://localhost/health/live", headers={"host": host})
        assert ("strict-transport-security" in answer.headers) is sent
