"""The way to an appliance: straight to this machine, through a proxy to others where one is named."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from client.errors import RefusedError, UnreachableError
from client.http import Client, is_loopback

NOWHERE = "http://127.0.0.1:9"


class Echo(BaseHTTPRequestHandler):
    """Answers with what was asked for: a path to a server, a whole URL to a proxy."""

    def do_GET(self) -> None:
        body = f'{{"asked": "{self.path}"}}'.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """A test prints nothing."""


@pytest.fixture
def echo() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_this_machine_is_reached_without_the_proxy(echo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing listens there
    with Client(echo) as client:
        assert client.call("GET", "/v1/models") == {"asked": "/v1/models"}


def test_another_machine_is_reached_through_the_proxy(echo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", echo)
    with Client("http://appliance.invalid:8080") as client:
        assert client.call("GET", "/v1/models") == {"asked": "http://appliance.invalid:8080/v1/models"}


def test_a_bad_address_is_named() -> None:
    with pytest.raises(UnreachableError, match=r"^http://\[::1: [^\n]+$"), Client("http://[::1"):
        pass


def test_a_port_where_nothing_listens_is_named() -> None:
    with pytest.raises(UnreachableError, match="nothing answers at http://127"), Client(NOWHERE) as client:
        client.call("GET", "/v1/models")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"title": "Not Found", "detail": "no model is x"}', r"no model is x \(404 Not Found\)"),
        (b"<html>", "the server answered 404"),
        (b'{"detail": "no title"}', "the server answered 404"),
        (b"[]", "the server answered 404"),
    ],
)
def test_a_refusal_is_the_detail_of_its_problem_document(body: bytes, message: str) -> None:
    error = RefusedError(404, body)
    assert re.fullmatch(message, str(error))
    assert error.status == 404


def test_a_refused_call_raises(echo: str) -> None:
    with pytest.raises(RefusedError, match="501"), Client(echo) as client:
        client.call("POST", "/v1/models")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("localhost", True),
        ("lmaas.localhost", True),
        ("localhost.example", False),
        ("10.0.0.1", False),
        ("appliance.invalid", False),
    ],
)
def test_what_is_this_machine(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


class Keys(BaseHTTPRequestHandler):
    """Answers with the key that was sent."""

    def do_GET(self) -> None:
        body = json.dumps({"sent": self.headers.get("Authorization")}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """A test prints nothing."""


def test_the_user_s_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMAAS_API_KEY", " lmaas_a_b\n")
    sent = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        for key in (None, "another", ""):
            with Client(url, key=key) as client:
                sent.append(client.call("GET", "/")["sent"])
        server.shutdown()
        thread.join()
    assert sent == ["Bearer lmaas_a_b", "Bearer another", None]
