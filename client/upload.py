"""Upload of a file by its digest: it goes on where a connection broke, also one of an earlier run."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from client.errors import RefusedError

if TYPE_CHECKING:
    import httpx

PART_BYTES = 64 * 1024**2  # of one request; proxies bound a body's size
READ_BYTES = 256 * 1024
ATTEMPTS = 6  # in a row that bring no byte further
PAUSE_SECONDS = 0.2  # before the second attempt; it doubles
LONGEST_PAUSE_SECONDS = 10.0
PASSING = (416, 429, 503)  # another part is expected; too much at once; a store that fails now

_RANGE = re.compile(r"bytes=0-(\d{1,18})", re.ASCII)


def upload(http: httpx.Client, file: Path) -> str:
    """Returns the digest, under which the server has the file then.

    Raises RefusedError; httpx's TransportError where the connection breaks again and again.
    """
    import httpx

    digest, size = f"sha256:{_sha256(file)}", file.stat().st_size
    path = f"/v1/blobs/{digest}"
    received = furthest = _received(_answer(http, "HEAD", path), size)
    failures = 0
    while received < size:
        try:
            received = _received(_send(http, path, file, received, size), size)
        except (httpx.TransportError, RefusedError) as error:  # noqa: PERF203 - each part may fail
            failures = failures + 1 if received <= furthest else 1
            furthest = max(furthest, received)
            passing = isinstance(error, httpx.TransportError) or error.status in PASSING
            if failures == ATTEMPTS or not passing:
                raise
            time.sleep(min(PAUSE_SECONDS * 2**failures, LONGEST_PAUSE_SECONDS))
            received = _asked_again(http, path, size, received)
    return digest


def _asked_again(http: httpx.Client, path: str, size: int, before: int) -> int:
    """How much is there, as far as the server can say it now."""
    import httpx

    try:
        return _received(_answer(http, "HEAD", path), size)
    except (httpx.TransportError, RefusedError):
        return before


def _send(http: httpx.Client, path: str, file: Path, start: int, size: int) -> httpx.Response:
    end = min(size, start + PART_BYTES)
    headers = {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Content-Length": str(end - start)}
    return _answer(http, "PUT", path, content=_bytes(file, start, end), headers=headers)


def _answer(http: httpx.Client, method: str, path: str, **arguments: object) -> httpx.Response:
    response = http.request(method, path, **arguments)  # type: ignore[arg-type]
    if response.is_error and not (method == "HEAD" and response.status_code == 404):
        raise RefusedError(response.status_code, response.content)
    return response


def _received(response: httpx.Response, size: int) -> int:
    """How many bytes the server has."""
    if response.status_code in (200, 201):
        return size
    match = _RANGE.fullmatch(response.headers.get("Range", ""))
    return int(match[1]) + 1 if match else 0


def _bytes(file: Path, start: int, end: int) -> Iterator[bytes]:
    with file.open("rb") as source:
        source.seek(start)
        while start < end and (chunk := source.read(min(READ_BYTES, end - start))):
            start += len(chunk)
            yield chunk


def _sha256(file: Path) -> str:
    total = hashlib.sha256()
    with file.open("rb") as source:
        while chunk := source.read(READ_BYTES):
            total.update(chunk)
    return total.hexdigest()
