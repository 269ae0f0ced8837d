"""`lmaas up`: check the machine, serve, show the stages of the start, and say when it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shlex
import signal
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import psutil
import uvloop

from api.app import create_app
from api.back.cluster.preflight import find_problems
from api.back.home import OTHERS
from api.back.store.keys import keys_before_start
from api.back.store.records import KeyRecord, now
from api.config import Settings
from api.errors import ApiError
from api.logs import configure_logging
from api.middle.bundled import Progress
from api.server import Server, allow_many_files
from api.tracing import TracingError

if TYPE_CHECKING:
    from api.back.store.records import DeploymentRecord
    from api.middle.startup import Appliance

log = logging.getLogger("lmaas")

CURL_BODY = '{"prompt": "Once upon a time", "max_tokens": 40}'


def serve(settings: Settings) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit status, 0 for both.

    Problems of the machine are printed before anything starts.
    """
    os.umask(OTHERS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    configure_logging(settings)
    keys, without = _keys(settings)
    problems = [*find_problems(settings.back), *filter(None, (_tls_problem(settings), without))]
    try:
        listener = _listen(settings)
    except OSError as error:
        problems.append(_address_problem(settings, error))
    if problems:
        for problem in problems:
            _say(settings, problem)
        return 1
    if warning := _warning(settings):
        _say(settings, f"warning: {warning}")
    allow_many_files()
    url = _url(*listener.getsockname()[:2], secure=settings.tls_certificate is not None)
    keyed = settings.access == "keys" or (settings.access == "auto" and bool(keys))
    display = StartDisplay(url, silent=settings.log_format == "json", keyed=keyed)
    try:
        app = create_app(settings, on_progress=display.show, keys_exist=bool(keys))
    except TracingError as error:
        _say(settings, str(error))
        return 1
    display.appliance = app.state.appliance
    server = Server(app, settings)
    # uvicorn drains at a signal, and raises it again once everything has ended.
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(server.serve(sockets=[listener]))
    if server.failure:
        _say(settings, server.failure)
        return 1
    return 0


def _say(settings: Settings, text: str) -> None:
    """For the operator; where log lines are JSON objects, it is one of them."""
    if settings.log_format == "json":
        log.error("%s", text)
    else:
        print(f"lmaas: {text}", file=sys.stderr)


def _listen(settings: Settings) -> socket.socket:
    """The listening socket of the API. Raises OSError."""
    family, kind, protocol, _, where = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM
    )[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(where)
    except OSError:
        listener.close()
        raise
    return listener


def _address_problem(settings: Settings, error: OSError) -> str:
    address = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{address} is taken: end what listens there, or choose another port (lmaas up --port 8081)"
    return f"cannot listen on {address} ({error.strerror or error}): choose another with --host and --port"


def _keys(settings: Settings) -> tuple[list[KeyRecord], str | None]:
    """The keys that there are, and why it does not start with them."""
    try:
        keys = asyncio.run(keys_before_start(settings.back.database))
    except ApiError as error:
        return [], str(error)
    return keys, _without_keys(settings, keys)


def _without_keys(settings: Settings, keys: Sequence[KeyRecord]) -> str | None:
    """Why it does not start: others reach the address, and there is no key. None: it starts."""
    if settings.on_loopback or settings.access == "open":
        return None
    if any(key.refusal(now()) is None for key in keys):
        return None
    return (
        f"{settings.host} is no loopback address, and there is no valid API key: create one with"
        " `lmaas keys create NAME`, or set LMAAS_ACCESS to open to let everybody use and change everything"
    )


def _warning(settings: Settings) -> str:
    """A warning for an address that others reach without a key; else empty."""
    if settings.on_loopback or settings.access != "open":
        return ""
    return (
        f"it listens on {settings.host}, which is no loopback address, and LMAAS_ACCESS is open: everybody"
        f" who reaches port {settings.port} may use and change everything, models too"
    )


def _tls_problem(settings: Settings) -> str | None:
    """Why the certificate cannot be used; None: it can, or there is none."""
    if settings.tls_certificate is None:
        return None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Without a password, OpenSSL would ask the terminal for one.
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=lambda: "")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = f"{settings.tls_certificate} and {settings.tls_key}"
        return f"LMAAS_TLS_CERTIFICATE and LMAAS_TLS_KEY: {files} cannot be used: {error}"
    return None


def _url(host: str, port: int, *, secure: bool) -> str:
    """Where a client on this machine reaches a server that listens on `host`."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    name = f"[{reached}]" if ":" in reached else reached
    return f"{'https' if secure else 'http'}://{name}:{port}"


class StartDisplay:
    """Prints the stages of the start, one line each, and at the end the addresses."""

    def __init__(self, url: str, *, silent: bool, keyed: bool) -> None:
        """`silent`: the log alone has the stages. `keyed`: callers need an API key."""
        self._silent = silent
        if not silent:
            logging.getLogger("api.middle.startup").setLevel(logging.WARNING)  # `show` prints these lines
        self.appliance: Appliance | None = None
        self._url = url
        self._keyed = keyed
        self._begin: float = psutil.Process().create_time()  # imports count: the user waits for them too

    def show(self, progress: Progress) -> None:
        if self._silent:
            return
        seconds = time.time() - self._begin
        if progress.stage != "failed":
            print(f"  {seconds:5.1f} s  {progress.message}", flush=True)
        if progress.stage == "ready" and self.appliance is not None:
            print(self._banner(self.appliance.service.models.deployments()), flush=True)

    def _banner(self, deployments: list[DeploymentRecord]) -> str:
        head = "\nLMaaS is ready.\n"
        if failures := self.appliance.not_imported if self.appliance is not None else []:
            listed = "\n".join(f"  {message}" for message in failures)
            head = f"\nLMaaS is ready, but bundled models were not imported:\n\n{listed}\n"
        where = f"  API      {self._url}\n  docs     {self._url}/docs\n  metrics  {self._url}/metrics\n"
        if not deployments:
            return f"{head}\n{where}\n  no models yet: lmaas models push NAME FOLDER --deploy\n"
        models = "\n".join(
            f"    {record.model:<16} version {record.version}, {record.variant.value}, {record.state.value}"
            for record in deployments
        )
        key = ' -H "authorization: Bearer $LMAAS_API_KEY"' if self._keyed else ""
        asked = f"-H 'content-type: application/json' -d {shlex.quote(CURL_BODY)}"
        curl = f"curl -s {self._url}/v1/generate{key} {asked}"
        return f"{head}\n{where}\n  models\n{models}\n\n  {curl}\n"
