"""What `lmaas up` does: look at the machine, serve, show the way there, and say when it is ready."""

from __future__ import annotations

import contextlib
import errno
import logging
import shlex
import socket
import sys
import time
from typing import TYPE_CHECKING

import psutil
import uvloop

from api.app import create_app
from api.back.cluster.preflight import find_problems
from api.config import Settings
from api.logs import configure_logging
from api.middle.bundled import Progress
from api.server import Server

if TYPE_CHECKING:
    from api.back.store.records import DeploymentRecord
    from api.middle.startup import Appliance

CURL_BODY = '{"prompt": "Once upon a time", "max_tokens": 40}'


def serve(settings: Settings) -> int:
    """Serve until Ctrl-C; returns the exit status. What the machine lacks is said before anything starts."""
    problems = find_problems(settings.back)
    try:
        listener = _listen(settings)
    except OSError as error:
        problems.append(_address_problem(settings, error))
    if problems:
        for problem in problems:
            print(f"lmaas: {problem}", file=sys.stderr)
        return 1
    configure_logging(settings)
    logging.getLogger("api.middle.startup").setLevel(logging.WARNING)  # the narrator tells these lines
    narrator = Narrator(_url(*listener.getsockname()[:2]))
    app = create_app(settings, on_progress=narrator.tell)
    narrator.appliance = app.state.appliance
    server = Server(app, settings)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything has ended
        uvloop.run(server.serve(sockets=[listener]))
    if server.failure:
        print(f"lmaas: {server.failure}", file=sys.stderr)
        return 1
    return 0


def _listen(settings: Settings) -> socket.socket:
    """The API's own address, taken. Raises OSError."""
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


def _url(host: str, port: int) -> str:
    """Where a client on this machine reaches a server that listens on `host`."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


class Narrator:
    """Tells the bring-up line by line, and at its end where everything is."""

    def __init__(self, url: str) -> None:
        self.appliance: Appliance | None = None
        self._url = url
        self._begin: float = psutil.Process().create_time()  # imports count: the user waits for them too

    def tell(self, progress: Progress) -> None:
        seconds = time.time() - self._begin
        if progress.stage != "failed":
            print(f"  {seconds:5.1f} s  {progress.message}", flush=True)
        if progress.stage == "ready" and self.appliance is not None:
            print(self._banner(self.appliance.service.backend.cluster.deployments()), flush=True)

    def _banner(self, deployments: list[DeploymentRecord]) -> str:
        where = f"  API      {self._url}\n  docs     {self._url}/docs\n  metrics  {self._url}/metrics\n"
        if not deployments:
            return f"\nLMaaS is ready.\n\n{where}\n  no models yet: lmaas models push NAME FOLDER --deploy\n"
        models = "\n".join(
            f"    {record.model:<16} version {record.version}, {record.variant.value}, {record.state.value}"
            for record in deployments
        )
        curl = (
            f"curl -s {self._url}/v1/generate -H 'content-type: application/json' -d {shlex.quote(CURL_BODY)}"
        )
        return f"\nLMaaS is ready.\n\n{where}\n  models\n{models}\n\n  {curl}\n"
