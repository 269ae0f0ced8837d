"""Requests to addresses that a caller names: never into this machine's own network, and never for long."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpcore

from api.errors import InvalidInput

SECONDS = 10.0  # for a whole request
LONGEST_URL = 2000
# Addresses of these networks have an IPv4 address in them, which is where the packets go.
TRANSLATED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "2002::/16", "2001::/32")))


class NotAllowed(Exception):
    """All addresses of the host are private."""


def check_url(field: str, url: str, *, private: bool) -> None:
    """Raises InvalidInput. A name is resolved when it is called, not here."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidInput.of(field, f"is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidInput.of(field, "must begin with http:// or https:// and a host")
    if (
        parts.username is not None
        or parts.fragment
        or not url.isascii()
        or not url.isprintable()
        or " " in url
    ):
        raise InvalidInput.of(field, "must be plain ASCII, without a user, a fragment or a space")
    if not private and _is_address(host) and not is_public(host):
        raise InvalidInput.of(field, f"{host} is not a public address")


def is_public(address: str) -> bool:
    """Whether an IP address is not private, loopback, link-local, multicast or reserved."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if any(found in network for network in TRANSLATED):
            return False
    return found.is_global and not found.is_multicast


class PublicNetwork(httpcore.AnyIOBackend):
    """Connects to what the name resolves to at this moment, after a look at it: it may have changed since."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from None
        addresses = [str(item[4][0]) for item in found if is_public(str(item[4][0]))]
        if not addresses:
            raise NotAllowed(f"{host} has no public address")
        return await super().connect_tcp(addresses[0], port, timeout, local_address, socket_options)


async def post(url: str, headers: Mapping[str, str], body: bytes, *, private: bool) -> int:
    """The status of the answer, whose body is not read. A redirection is an answer like any other.

    Raises NotAllowed, TimeoutError, OSError, and httpcore's errors.
    """
    network = httpcore.AnyIOBackend() if private else PublicNetwork()
    with anyio.fail_after(SECONDS):
        async with (
            httpcore.AsyncConnectionPool(network_backend=network) as pool,
            pool.stream("POST", url, headers=list(headers.items()), content=body) as response,
        ):
            return response.status


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
