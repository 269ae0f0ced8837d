"""Requests from web pages are accepted from this server's own pages only, and under its own names only.

A page of any web site can make a browser send requests to a server on localhost. Three headers show it:

- `Host`: a web site can make its own name resolve to this machine ("DNS rebinding"). The browser then takes
  this server for that site, and only the name shows the difference. An address cannot be rebound.
- `Origin` (RFC 6454): browsers send it with every request but plain GETs, as links and images are. The pages
  of `LMAAS_CORS_ORIGINS` may send what they like.
- `Sec-Fetch-*` (W3C "Fetch Metadata Request Headers"): sent with plain GETs too. Old browsers do not know it,
  and new ones send it only to https and to loopback.

Programs that are not browsers send `Host` alone, or none of the three (HTTP/1.0).
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.requests import Request

from api.config import PREFIX, Settings
from api.front.problems import CrossSite

HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:/@\s]+)(:(?P<port>[0-9]{0,5}))?")
DEFAULT_PORTS = {"http": 80, "https": 443}
NOT_OF_OTHERS = (None, "same-origin", "none")  # Sec-Fetch-Site; none: the user typed the address
BROWSER = "Mozilla/"  # every browser's User-Agent begins so

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Site:
    """This server as browsers see it."""

    def __init__(self, settings: Settings) -> None:
        self._bound = _canonical(settings.host)
        self._allowed = frozenset(map(_canonical, settings.host_names))
        self._names = self._allowed | {"localhost", self._bound}
        self._pages = frozenset(settings.page_origins)
        self._on_loopback = self._bound == "localhost" or _is_loopback(self._bound)

    def check(self, request: Request, *, computes: bool) -> None:
        """Raises CrossSite. `computes`: this GET makes a model compute: no link may cause it either."""
        hosts, headers = request.headers.getlist("host"), request.headers
        for host in hosts:
            if not self.answers_as(host):
                raise CrossSite(
                    f"Host {host[:100]!r} is no name of this server, which listens on {self._bound}: ask it"
                    f" as localhost or by its address, or list the name in {PREFIX}ALLOWED_HOSTS"
                )
        if headers.get("origin") in self._pages:
            return
        if "origin" in headers and not self._is_own(headers["origin"], hosts):
            raise CrossSite(
                f"requests from pages of {headers['origin'][:100]!r} are not taken; a proxy that changes Host"
                f" needs its name in {PREFIX}ALLOWED_HOSTS, and a page of yours its origin in"
                f" {PREFIX}CORS_ORIGINS"
            )
        if headers.get("sec-fetch-site") not in NOT_OF_OTHERS and (computes or not _is_link(request)):
            raise CrossSite("requests from pages of other sites are not taken")
        if computes and "sec-fetch-site" not in headers and headers.get("user-agent", "").startswith(BROWSER):
            raise CrossSite("this browser does not tell which page asks (Sec-Fetch-Site); use POST instead")

    def answers_as(self, host: str) -> bool:
        """Whether this `Host` is a name of this server."""
        found = HOST.fullmatch(host)
        name = _canonical(found["name"]) if found else ""
        address = _address(name)
        if address is None:
            return name in self._names
        if address.is_unspecified:  # 0.0.0.0 belongs to no host, but browsers connect to this machine for it
            return False
        return not self._on_loopback or address.is_loopback or name in self._names

    def _is_own(self, origin: str, hosts: list[str]) -> bool:
        """Whether the page came from this server: from the request's target, or from an allowed name."""
        try:
            parts = urlsplit(origin)
            port = parts.port or DEFAULT_PORTS[parts.scheme]
        except (ValueError, KeyError):  # `null`, or a page of a file or an extension
            return False
        name = _canonical(parts.hostname or "")
        return name in self._allowed or any((name, port) == _target(host, parts.scheme) for host in hosts)


def _target(host: str, scheme: str) -> tuple[str, int] | None:
    """Name and port of a `Host`."""
    found = HOST.fullmatch(host)
    return (_canonical(found["name"]), int(found["port"] or DEFAULT_PORTS[scheme])) if found else None


def _is_link(request: Request) -> bool:
    """Whether the user followed a link: the answer becomes a page, which no other site can read."""
    headers = request.headers
    return (
        request.method in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _canonical(name: str) -> str:
    """A name as it is compared: in lower case, without the root's dot; an address in its shortest form."""
    name = name.strip("[]").lower().removesuffix(".")
    address = _address(name)
    return name if address is None else str(address)


def _address(name: str) -> Address | None:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_loopback(name: str) -> bool:
    address = _address(name)
    return address is not None and address.is_loopback
