"""Where a Triton listens."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses as host:port."""

    grpc: str
    http: str | None  # None: this server has no HTTP
    metrics: str


def parse_address(url: str) -> Endpoints:
    """`grpc://HOST:PORT`, with the metrics on the next port, as Triton has them, or on `?metrics=PORT`.

    Raises ValueError.
    """
    parts = urlsplit(url)
    if parts.scheme != "grpc" or not parts.hostname or not parts.port or parts.path not in ("", "/"):
        raise ValueError(f"{url!r} is no address of a Triton: give grpc://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    metrics = parse_qs(parts.query).get("metrics", [str(parts.port + 1)])[0]
    if not metrics.isdecimal():
        raise ValueError(f"{url!r} has no port of metrics: give ?metrics=PORT")
    return Endpoints(f"{host}:{parts.port}", None, f"{host}:{metrics}")
