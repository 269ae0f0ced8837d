"""What web pages can have a browser send, and under which names the server is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from api.app import create_app
from api.config import Settings
from api.front.endpoint import Endpoint
from api.front.routes import ENDPOINTS
from tests.api.asgi import Call
from tests.api.conftest import serving_client
from tests.api.fakes import FakeBack

GENERATE = "/v1/generate?prompt=a"
REBOUND = "rebound.example:8080"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:78.0) Gecko/20100101 Firefox/78.0"
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
IMAGE = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}


def statuses(app: Starlette, headers: dict[str, str]) -> set[int]:
    """Of a GET, a HEAD, an OPTIONS, a POST, a PUT and a DELETE with these headers, without a bring-up."""
    client = TestClient(app, base_url="http://localhost")
    methods = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE")
    return {client.request(method, "/v1/models", headers=headers).status_code for method in methods}


def server(settings: Settings, back: FakeBack, *, bound: str, allowed: str = "") -> Callable[[str], bool]:
    """Whether a server that is bound so answers under a `Host`."""
    changed = Settings(**{**settings.model_dump(), "host": bound, "allowed_hosts": allowed})
    client = TestClient(create_app(changed, open_backend=back.open), base_url="http://localhost")

    def knows(host: str) -> bool:
        status = client.head("/docs", headers={"host": host}).status_code
        assert status in (200, 403)
        return status == 200

    return knows


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"{endpoint.method} {endpoint.path}")
def test_every_route_but_those_of_probes_needs_its_name(app: Starlette, endpoint: Endpoint) -> None:
    """A kubelet asks under the address of a pod. It learns only whether the appliance lives and serves."""
    client = TestClient(app, base_url="http://localhost")
    answer = client.request(endpoint.method, endpoint.path, headers={"host": REBOUND})
    if endpoint.path == "/health/live":
        assert answer.status_code == 200
    elif endpoint.path == "/health/serving":
        assert (answer.status_code, "model" in answer.text) == (503, False)
    else:
        assert answer.status_code == 403
        assert "LMAAS_ALLOWED_HOSTS" in answer.text


def test_every_method_needs_its_name(app: Starlette) -> None:
    assert statuses(app, {"host": REBOUND}) == {403}
    assert 403 not in statuses(app, {})


def test_the_problem_says_what_to_do(client: TestClient) -> None:
    problem = client.get("/v1/servers", headers={"host": REBOUND}).json()
    assert problem["type"] == "/docs#cross-site"
    assert problem["detail"] == (
        "Host 'rebound.example:8080' is no name of this server, which listens on 127.0.0.1: ask it as"
        " localhost or by its address, or list the name in LMAAS_ALLOWED_HOSTS"
    )
    openai = client.post("/v1/completions", json={}, headers={"host": REBOUND})
    assert (openai.status_code, openai.json()["error"]["code"]) == (403, "forbidden")


LOOPBACK = ("localhost", "LOCALHOST.:8080", "127.0.0.1:8080", "127.8.9.1", "[::1]:8080", "[::1]",
            "[0:0::1]:80", "[::ffff:127.0.0.1]:8080")  # fmt: skip
STRANGE = ("localhost.rebound.example", "127.0.0.1.rebound.example", "x]", "[::1", "localhost:x",
           "a@localhost", "localhost:8080:8080", "localhost/", "localhost..", "[localhost]", ":8080",
           "0.0.0.0:8080", "[::]", "2130706433", "localhost,rebound.example")  # fmt: skip


@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "::1", "0.0.0.0", "192.0.2.1"])
def test_names_of_this_machine(settings: Settings, back: FakeBack, bound: str) -> None:
    knows = server(settings, back, bound=bound)
    assert [host for host in LOOPBACK if not knows(host)] == []
    assert [host for host in STRANGE if knows(host)] == []


@pytest.mark.parametrize(
    ("host", "bound", "known"),
    [
        ("192.0.2.1", "127.0.0.1", False),  # nothing that is asked so can reach it
        ("192.0.2.1:8080", "0.0.0.0", True),
        ("[2001:db8:0::7]:8080", "::", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("lab.example:8080", "0.0.0.0", False),
        ("Lab.Example.:8080", "lab.example", True),
        ("other.example", "lab.example", False),
    ],
)
def test_where_it_is_bound(settings: Settings, back: FakeBack, host: str, bound: str, known: bool) -> None:
    assert server(settings, back, bound=bound)(host) is known


def test_the_operator_names_others(settings: Settings, back: FakeBack) -> None:
    allowed = "lmaas, LMaaS.ai-team.svc,192.0.2.9,[2001:db8::7]"
    knows = server(settings, back, bound="127.0.0.1", allowed=allowed)
    for host in (
        "lmaas",
        "lmaas.ai-team.SVC:80",
        "lmaas.ai-team.svc.:80",
        "192.0.2.9:8080",
        "[2001:db8:0::7]",
    ):
        assert knows(host), host
    for host in ("svc", "x.lmaas", "lmaas.ai-team.svc.example", "192.0.2.8"):
        assert not knows(host), host


@pytest.mark.parametrize("headers", [{}, {"host": ""}])
def test_no_browser_leaves_out_its_host(app: Starlette, headers: dict[str, str]) -> None:
    async def ask() -> int:
        call = Call(app, "GET", "/docs", headers=headers, chunks=[b""])
        await call.done()
        return call.status

    assert asyncio.run(ask()) == (403 if headers else 200)


def test_two_hosts_must_both_be_known(app: Starlette) -> None:
    client = TestClient(app, base_url="http://localhost")
    for hosts in (["localhost", "rebound.example"], ["rebound.example", "localhost"]):
        assert client.get("/docs", headers=[("host", host) for host in hosts]).status_code == 403


FOREIGN = ("http://rebound.example:8080", "null", "", "http://localhost:3000", "http://127.0.0.1:8080", "file://",
           "chrome-extension://abcdef", "http://localhost:8080.rebound.example", "http://[", "http://localhost:x",
           "localhost:8080")  # fmt: skip


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_foreign_origin_is_refused_by_every_method(app: Starlette, origin: str) -> None:
    assert statuses(app, {"host": "localhost:8080", "origin": origin}) == {403}
    headers = {"host": "localhost:8080", "origin": origin, "sec-fetch-site": "same-origin"}
    assert statuses(app, headers) == {403}


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8080", "http://localhost:8080"),
        ("LOCALHOST:8080", "http://localhost:8080"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("localhost", "https://localhost"),  # a proxy ends TLS
        ("[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_its_own_pages_are_served(client: TestClient, host: str, origin: str) -> None:
    headers = {"host": host, "origin": origin}
    assert client.post("/v1/generate", json={"prompt": "a"}, headers=headers).status_code == 200
    assert client.delete("/v1/deployments/d-mini-nli", headers=headers).status_code == 204


def test_a_proxy_that_changes_host_is_named(settings: Settings, back: FakeBack) -> None:
    headers = {"host": "127.0.0.1:8080", "origin": "https://lmaas.example", "sec-fetch-site": "same-origin"}
    for allowed, status in (("", 403), ("lmaas.example", 200)):
        changed = settings.model_copy(update={"allowed_hosts": allowed})
        with serving_client(create_app(changed, open_backend=back.open)) as client:
            answer = client.post("/v1/generate", json={"prompt": "a"}, headers=headers)
        assert answer.status_code == status


@pytest.mark.parametrize("site", ["cross-site", "same-site", "something-new"])
def test_other_sites_get_nothing_but_a_followed_link(app: Starlette, site: str) -> None:
    for mode, destination in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe")):
        metadata = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": destination}
        assert statuses(app, metadata) == {403}
    client = TestClient(app, base_url="http://localhost")
    link = LINK | {"sec-fetch-site": site}
    assert client.get("/", headers=link).status_code == 200
    assert client.get("/health/live", headers=IMAGE).status_code == 200
    assert client.post("/v1/generate", json={"prompt": "a"}, headers=link).status_code == 403


def test_no_other_site_s_page_has_a_model_work(client: TestClient, back: FakeBack) -> None:
    for headers in (
        LINK,
        IMAGE,
        {"sec-fetch-site": "same-site"},
        {"origin": "null"},
        {"user-agent": FIREFOX},
    ):
        answer = client.get(GENERATE, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (403, "/docs#cross-site")
    assert back.cluster.requests == []
    typed = {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "user-agent": FIREFOX}
    own = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "user-agent": FIREFOX}
    for headers in ({}, {"user-agent": "curl/8.5.0"}, typed, own):
        assert client.get(GENERATE, headers=headers).status_code == 200
    # What changes something has an Origin in every browser; a program that calls itself Mozilla goes on.
    body = {"prompt": "a"}
    assert client.post("/v1/generate", json=body, headers={"user-agent": FIREFOX}).status_code == 200
