"""Download of a file: streamed, with its ETag, conditions and byte ranges (RFC 9110, sections 13, 14)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from api.front.problems import ChangedMeanwhile, WrongRange, problem_response
from api.front.validation import shown

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


class Download(Protocol):
    """What is sent. The same `etag` always means the same bytes."""

    @property
    def media_type(self) -> str: ...

    @property
    def filename(self) -> str: ...

    @property
    def etag(self) -> str: ...

    @property
    def size(self) -> int: ...

    def read(self, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `start` up to, not including, `end`."""


async def download_response(request: Request, file: Download) -> Response:
    """Raises what reading the first bytes raises: after these a failure can only cut the connection."""
    etag = f'"{file.etag}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f'attachment; filename="{file.filename}"',
    }
    expected = request.headers.get("if-match")
    if expected is not None and not _matches(expected, etag, weak=False):
        changed = ChangedMeanwhile(f"If-Match is {shown(expected)}, but the file's ETag is {etag}")
        return problem_response(changed, request, {"ETag": etag})
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range") if request.method == "GET" else None
    if wanted is None or request.headers.get("if-range", etag) != etag:
        return await _stream(request, file, 0, file.size, 200, headers)
    span = byte_range(wanted, file.size)
    if span is None:  # several ranges, or another unit: RFC 9110 allows to answer with the whole
        return await _stream(request, file, 0, file.size, 200, headers)
    start, end = span
    if start >= end:
        refusal = WrongRange(f"Range {shown(wanted)} is outside the file, which has {file.size} bytes")
        return problem_response(refusal, request, {"Content-Range": f"bytes */{file.size}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    return await _stream(request, file, start, end, 206, headers)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of a single range; empty if it is outside, None if the header is ignored."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.group() == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1 if last else size)


def _matches(header: str | None, etag: str, *, weak: bool = True) -> bool:
    """Whether a list of entity tags names this one; `weak` compares also what W/ marks as nearly the same."""
    tags = [tag.strip() for tag in (header or "").split(",")]
    return "*" in tags or etag in [tag.removeprefix("W/") if weak else tag for tag in tags]


async def _stream(
    request: Request, file: Download, start: int, end: int, status: int, headers: dict[str, str]
) -> Response:
    headers = {**headers, "Content-Length": str(end - start)}
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=file.media_type)
    parts = file.read(start, end)
    first = await anext(parts, b"")

    async def body() -> AsyncIterator[bytes]:
        yield first
        async for part in parts:
            yield part

    return StreamingResponse(body(), status, headers=headers, media_type=file.media_type)
