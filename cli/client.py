"""The command line's way to a running appliance: HTTP, with problem documents turned into one line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 600.0

Url = Annotated[str, typer.Option("--url", envvar="LMAAS_URL", help="Where the appliance answers.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def fail(message: str) -> NoReturn:
    """Print one line on standard error and leave with status 1."""
    sys.stderr.write(f"lmaas: {message}\n")
    raise typer.Exit(1)


def problem_line(status: int, body: bytes) -> str:
    """The sentence of a problem document, or what can be said without one."""
    try:
        problem = json.loads(body)
        return f"{problem['detail']} ({status} {problem['title']})"
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status}"


class Client:
    """One appliance, by its base URL. A refusal ends the command with one line."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Send a request; returns the parsed JSON answer, None where it has no body."""
        response = self._http.request(method, path, **arguments)
        if response.is_error:
            fail(problem_line(response.status_code, response.content))
        return response.json() if response.content else None

    def events(self, method: str, path: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Follow a stream of server-sent events as (event, parsed data)."""
        with self._http.stream(method, path, **arguments) as response:
            if response.is_error:
                fail(problem_line(response.status_code, response.read()))
            event = "message"
            for line in response.iter_lines():
                if line.startswith("event:"):
                    event = line.removeprefix("event:").strip()
                elif line.startswith("data:"):
                    yield event, json.loads(line.removeprefix("data:"))
                elif not line:
                    event = "message"

    def download(self, path: str, target: str) -> int:
        """Stream a body into the file `target`; returns its bytes."""
        written = 0
        with self._http.stream("GET", path) as response:
            if response.is_error:
                fail(problem_line(response.status_code, response.read()))
            partial = f"{target}.part"
            with open(partial, "wb") as file:
                for chunk in response.iter_bytes():
                    written += file.write(chunk)
            os.replace(partial, target)
        return written


@contextmanager
def connect(url: str) -> Iterator[Client]:
    """Open a Client; a server that is not there ends the command with one line and what to do."""
    import httpx

    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    try:
        with httpx.Client(base_url=url, timeout=timeout, trust_env=False) as http:
            yield Client(http)
    except httpx.ConnectError:
        fail(f"nothing answers at {url}; start the appliance with `lmaas up`, or name another with --url")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        fail(f"{url}: {error or type(error).__name__}")
