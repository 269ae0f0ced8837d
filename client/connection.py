"""How both clients reach an appliance: options for httpx, faults as errors of ours, server-sent events."""

from __future__ import annotations

import ipaddress
import json
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from client.errors import RefusedError, UnreachableError

DEFAULT_URL = "http://127.0.0.1:8080"
API_KEY = "LMAAS_API_KEY"  # the environment variable with the caller's key
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 600.0


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
def reachable(url: str) -> Iterator[None]:
    """Raise UnreachableError in place of what httpx raises where a connection fails or breaks."""
    import httpx  # slow to import, and many commands need no client

    try:
        yield
    except httpx.ConnectError as error:
        raise UnreachableError(
            f"nothing answers at {url}; start the appliance with `lmaas up`, or name another with --url"
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnreachableError(f"{url}: {error or type(error).__name__}") from error


def options(url: str, key: str | None, timeout: float = ANSWER_SECONDS) -> dict[str, Any]:
    """Of httpx's clients, sync and async. `key` None: the user's, from the environment; "": none."""
    import httpx

    sent = api_key() if key is None else key
    # So that a certificate of one's own can be trusted, also where `trust_env` is off.
    file = os.environ.get("SSL_CERT_FILE")
    with reachable(url):
        # Users set `http_proxy` for other machines, often without `no_proxy`: ignore it for this one.
        use_proxy = not is_loopback(httpx.URL(url).host)
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {sent}"} if sent else {},
        "timeout": httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        "trust_env": use_proxy,
        "verify": ssl.create_default_context(cafile=file) if file else True,
    }


class Events:
    """Parses the lines of a stream of server-sent events."""

    def __init__(self) -> None:
        self._event = "message"

    def take(self, line: str) -> tuple[str, Any] | None:
        """(event, parsed data) where this line is the data of an event."""
        if line.startswith("event:"):
            self._event = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            return self._event, json.loads(line.removeprefix("data:"))
        elif not line:
            self._event = "message"
        return None


def checked(event: str, data: Any) -> Any:
    """The data of an event. Raises RefusedError where it is the error that ended the stream."""
    if event == "error":
        raise RefusedError(data["status"], json.dumps(data).encode())
    return data
