"""HTTPS over a real socket: answers, streams, refusals, and the command line's client."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop
from starlette.concurrency import run_in_threadpool

from api import bounds
from api.app import create_app
from api.config import Settings
from api.environment import SettingsError, load_settings
from api.server import Server
from api.shared_listener import Counts, SharedListener
from cli import start_checks
from client.http import Client
from tests.api.asgi import until
from tests.api.certificate import write_certificate
from tests.api.conftest import Run, Serve
from tests.api.conftest import serving as until_serving
from tests.api.fakes import FakeBack
from tests.api.front.test_streams import Gate
from tests.api.sockets import WHOLE, Served, started


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, signed by itself, and its key."""
    return write_certificate(tmp_path_factory.mktemp("tls"))


def test_the_api_speaks_https(
    settings: Settings, back: FakeBack, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = files
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    changed = settings.model_copy(update={"port": 0, "tls_certificate": certificate, "tls_key": key})

    def ask(port: int) -> None:
        with Client(f"https://127.0.0.1:{port}") as client:
            assert client.call("POST", "/v1/generate", json={"prompt": "a"})["model"] == "mini-lm"
            body = {"prompt": "a", "stream": True}
            streamed = [data for _, data in client.events("POST", "/v1/generate", json=body)]
            assert streamed[-1]["usage"]["completion_tokens"] > 0
            assert_refusals(client)

    async def test() -> None:
        server = Server(create_app(changed, open_backend=back.open), changed)
        task, port = await started(server)
        await until_serving(server.config.app)  # type: ignore[arg-type]
        await run_in_threadpool(ask, port)
        server.should_exit = True
        await task

    uvloop.run(test())


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, run: Run) -> Run:
    """On both event loops."""
    if request.param == "asyncio":
        return run

    async def bounded(test: Callable[[], Awaitable[None]]) -> None:
        await asyncio.wait_for(test(), 20)

    return lambda test: uvloop.run(bounded(test))


def settings_of(files: tuple[Path, Path]) -> dict[str, Path]:
    return {"tls_certificate": files[0], "tls_key": files[1]}


def test_handshakes_that_do_not_end_give_way(
    serve: Serve, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "GRACE_SECONDS", 0)
    context = ssl.create_default_context(cafile=files[0])

    async def test(served: Served) -> None:
        for begin in (b"", b"\x16\x03\x01"):
            silent = await served.client()
            await silent.send(begin)
            await until(lambda: served.connections == 1)
            whole = await served.client(tls=context)
            assert await whole.ask(WHOLE) == 200
            assert await silent.ended() == b""
            whole.leave()
            await until(lambda: not served.connections)

    serve(test, max_connections=1, **settings_of(files))


def test_a_caller_who_leaves_in_the_handshake_is_forgotten(serve: Serve, files: tuple[Path, Path]) -> None:
    async def test(served: Served) -> None:
        silent = await served.client()
        await until(lambda: served.connections)
        silent.leave()
        await until(lambda: not served.connections)

    serve(test, **settings_of(files))


def test_connections_of_a_shared_socket_are_secure_too(
    settings: Settings, back: FakeBack, files: tuple[Path, Path], run: Run
) -> None:
    changed = settings.model_copy(update={"port": 0, "drain_seconds": 0.05, **settings_of(files)})
    context = ssl.create_default_context(cafile=files[0])

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            shared = SharedListener(listener.dup(), Counts.create(1), 0)
            app = create_app(changed, open_backend=back.open)
            server = Server(app, changed, shared)
            task, _ = await started(server)
            await until_serving(app)
            served = Served(server, listener.getsockname()[1])
            client = await served.client(tls=context)
            assert await client.ask(WHOLE) == 200
            assert served.connections == 1
            await served.stop(task)

    run(test)


def test_where_none_can_give_way_the_newest_handshake_goes(
    serve: Serve, back: FakeBack, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "SPARE_CONNECTIONS", 1)
    monkeypatch.setattr(bounds, "GRACE_SECONDS", 60)
    gate = Gate()
    back.cluster.reply = gate.reply
    context = ssl.create_default_context(cafile=files[0])

    async def test(served: Served) -> None:
        busy = await served.client(tls=context)
        await busy.send(WHOLE)
        await until(lambda: back.cluster.running)
        await served.client()  # may be about to ask for health
        await until(lambda: served.connections == 2)
        refused = await served.client()
        assert await refused.ended() == b""
        assert served.connections == 2
        gate.open(3)
        assert (await busy.answer())[0] == 200

    serve(test, max_connections=1, **settings_of(files))


def test_a_handshake_has_a_deadline(serve: Serve, files: tuple[Path, Path]) -> None:
    async def test(served: Served) -> None:
        silent = await served.client()
        assert await silent.ended() == b""
        await until(lambda: not served.connections)
        plain = await served.client()
        await plain.send(WHOLE)  # no TLS
        assert not (await plain.ended()).startswith(b"HTTP")

    serve(test, head_timeout_seconds=0.1, **settings_of(files))


def test_a_request_that_comes_with_the_end_of_the_handshake(serve: Serve, files: tuple[Path, Path]) -> None:
    """As TLS 1.3 allows: in one piece."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=files[0])
    secure = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")

    async def test(served: Served) -> None:
        client = await served.client()
        done = False
        while not done:
            with suppress(ssl.SSLWantReadError):
                secure.do_handshake()
                done = True
            if not done:
                await client.send(outgoing.read())
                incoming.write(await client.some())
        secure.write(WHOLE)
        await client.send(outgoing.read())
        answer = b""
        while b"200 OK" not in answer:
            incoming.write(await client.some())
            with suppress(ssl.SSLWantReadError):
                answer += secure.read(2**16)

    serve(test, **settings_of(files))


def assert_refusals(client: Client) -> None:
    """An answer that comes before its request's end, and one to what is no request."""
    http = client._http
    large = http.post("/v1/generate", content=b"x" * 2**22, headers={"content-type": "application/json"})
    assert large.status_code == 413
    long = http.get("/v1/models", headers={"X-Long": "x" * 2**17})
    assert (long.status_code, json.loads(long.content)["type"]) == (431, "/docs#head-too-large")
    assert long.headers["x-content-type-options"] == "nosniff"
    assert http.get("/health/live").headers["strict-transport-security"].startswith("max-age=")


def test_a_bad_certificate_is_one_line(settings: Settings, files: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = files
    (tmp_path / "no.pem").write_text("nothing")
    bad = [(tmp_path / "no.pem", key), (tmp_path / "none.pem", key), (certificate, certificate)]
    for chain, secret in [*bad, (certificate, key.with_name("locked.pem"))]:
        changed = settings.model_copy(update={"tls_certificate": chain, "tls_key": secret})
        problem = start_checks._tls_problem(changed)
        assert problem is not None
        assert "LMAAS_TLS_CERTIFICATE" in problem
        assert "\n" not in problem
    changed = settings.model_copy(update={"tls_certificate": certificate, "tls_key": key})
    assert start_checks._tls_problem(changed) is start_checks._tls_problem(settings) is None


@pytest.mark.parametrize("name", ["LMAAS_TLS_KEY", "LMAAS_TLS_CERTIFICATE"])
def test_certificate_and_key_belong_together(name: str) -> None:
    with pytest.raises(SettingsError, match="LMAAS_TLS_CERTIFICATE and LMAAS_TLS_KEY are needed together"):
        load_settings({name: "file.pem"})


def test_the_address_says_so() -> None:
    assert start_checks.url_of("0.0.0.0", 1, secure=True) == "https://127.0.0.1:1"
    assert start_checks.url_of("::", 1, secure=False) == "http://[::1]:1"
