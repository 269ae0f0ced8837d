"""One appliance by its base URL: JSON calls, server-sent events, downloads."""

from __future__ import annotations

import io
import ipaddress
import json
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.errors import RefusedError, UnreachableError
from client.remote_file import RemoteFile
from client.upload import upload

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8080"
API_KEY = "LMAAS_API_KEY"  # the environment variable with the caller's key
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 600.0


class Client:
    """An open connection to an appliance. An HTTP error raises RefusedError."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Send a request; returns the parsed JSON answer, None where it has no body."""
        response = self._http.request(method, path, **arguments)
        if response.is_error:
            raise RefusedError(response.status_code, response.content)
        return response.json() if response.content else None

    def events(self, method: str, path: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Follow a stream of server-sent events as (event, parsed data)."""
        with self._http.stream(method, path, **arguments) as response:
            if response.is_error:
                raise RefusedError(response.status_code, response.read())
            event = "message"
            for line in response.iter_lines():
                if line.startswith("event:"):
                    event = line.removeprefix("event:").strip()
                elif line.startswith("data:"):
                    yield event, json.loads(line.removeprefix("data:"))
                elif not line:
                    event = "message"

    def upload(self, file: Path) -> str:
        """Send a file; returns its digest. What the server has of it already is not sent again."""
        return upload(self._http, file)

    def open(self, path: str) -> io.BufferedReader:
        """A file that is read in parts: only what is asked for is sent."""
        return io.BufferedReader(RemoteFile(self._http, path))

    def download(self, path: str, target: str) -> int:
        """Write a body to the file `target`; returns its size in bytes."""
        written = 0
        with self._http.stream("GET", path) as response:
            if response.is_error:
                raise RefusedError(response.status_code, response.read())
            partial = f"{target}.part"
            with open(partial, "wb") as file:
                for chunk in response.iter_bytes():
                    written += file.write(chunk)
            os.replace(partial, target)
        return written


def is_loopback(host: str) -> bool:
    """Whether this name or address means the machine that asks."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def api_key() -> str:
    """The user's key for the appliance; empty without one."""
    return os.environ.get(API_KEY, "").strip()


@contextmanager
def connect(url: str, *, key: str | None = None) -> Iterator[Client]:
    """Open a Client, with the user's key unless another one is given ("": none).

    Raises UnreachableError where the server cannot be reached or the connection breaks.
    """
    import httpx  # slow to import, and many commands need no client

    sent = api_key() if key is None else key
    headers = {"Authorization": f"Bearer {sent}"} if sent else {}
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    try:
        # Users set `http_proxy` for other machines, often without `no_proxy`: ignore it for this one.
        use_proxy = not is_loopback(httpx.URL(url).host)
        # So that a certificate of one's own can be trusted, also where `trust_env` is off.
        file = os.environ.get("SSL_CERT_FILE")
        trusted = ssl.create_default_context(cafile=file) if file else True
        with httpx.Client(
            base_url=url, headers=headers, timeout=timeout, trust_env=use_proxy, verify=trusted
        ) as http:
            yield Client(http)
    except httpx.ConnectError as error:
        raise UnreachableError(
            f"nothing answers at {url}; start the appliance with `lmaas up`, or name another with --url"
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnreachableError(f"{url}: {error or type(error).__name__}") from error
