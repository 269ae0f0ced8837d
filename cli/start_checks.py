"""What `lmaas up` looks at before it serves; what is not well is said in one line each."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from api.back.cluster.preflight import find_problems
from api.back.store.keys import keys_before_start
from api.back.store.records import KeyRecord, now
from api.config import Settings
from api.errors import ApiError

log = logging.getLogger("lmaas")


class AddressError(Exception):
    """An address that cannot be listened on; `str(error)` is one line for the operator."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A machine and settings that can serve."""

    settings: Settings
    listeners: list[socket.socket]
    has_keys: bool

    @property
    def keyed(self) -> bool:
        """Whether callers need a key."""
        return self.settings.access == "keys" or (self.settings.access == "auto" and self.has_keys)

    @property
    def urls(self) -> list[str]:
        """Of each listener, as a client on this machine reaches it."""
        secure = self.settings.tls_certificate is not None
        return [url_of(*listener.getsockname()[:2], secure=secure) for listener in self.listeners]


def url_of(host: str, port: int, *, secure: bool) -> str:
    """Where a client on this machine reaches a server that listens on `host`."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    name = f"[{reached}]" if ":" in reached else reached
    return f"{'https' if secure else 'http'}://{name}:{port}"


def check(settings: Settings, listen: Callable[[Settings], list[socket.socket]]) -> Checked | None:
    """Open the sockets, once the rest is found to be well. None: what is not was said."""
    keys, without = _keys(settings)
    problems = [*find_problems(settings.back), *filter(None, (_tls_problem(settings), without))]
    listeners: list[socket.socket] = []
    try:
        listeners = listen(settings)
    except AddressError as error:
        problems.append(str(error))
    for problem in problems:
        say(settings, problem)
    return None if problems else Checked(settings, listeners, bool(keys))


def say(settings: Settings, text: str) -> None:
    """For the operator; where log lines are JSON objects, it is one of them."""
    if settings.log_format == "json":
        log.error("%s", text)
    else:
        print(f"lmaas: {text}", file=sys.stderr)


def listen(settings: Settings) -> socket.socket:
    """The socket of the API, bound to its address. Raises AddressError."""
    try:
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
    except OSError as error:
        raise AddressError(_address_problem(settings, error)) from None
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


def warn(settings: Settings) -> None:
    """Of an address that others reach without a key."""
    if settings.on_loopback or settings.access != "open":
        return
    say(
        settings,
        f"warning: it listens on {settings.host}, which is no loopback address, and LMAAS_ACCESS is open:"
        f" everybody who reaches port {settings.port} may use and change everything, models too",
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
