"""Download of an archive: streamed, with ETag, If-None-Match and byte ranges (RFC 9110, sections 13, 14)."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from api.back.store.archives import ArchiveDownload
from api.front.problems import WrongRange, problem_response

MEDIA_TYPE = "application/gzip"

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


def archive_response(request: Request, archive: ArchiveDownload) -> Response:
    etag = f'"{archive.etag}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{archive.filename}"',
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range") if request.method == "GET" else None
    if wanted is None or request.headers.get("if-range", etag) != etag:
        return _stream(request, archive, 0, archive.size, 200, headers)
    span = byte_range(wanted, archive.size)
    if span is None:  # several ranges, or another unit: the whole is a correct answer
        return _stream(request, archive, 0, archive.size, 200, headers)
    start, end = span
    if start >= end:
        refusal = WrongRange(f"Range {wanted!r} is outside the archive, which has {archive.size} bytes")
        return problem_response(refusal, request, {"Content-Range": f"bytes */{archive.size}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{archive.size}"
    return _stream(request, archive, start, end, 206, headers)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of a single range; empty: it cannot be met; None: it is to be ignored."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.group() == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1 if last else size)


def _matches(header: str | None, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in (header or "").split(",")]
    return etag in tags or "*" in tags


def _stream(
    request: Request, archive: ArchiveDownload, start: int, end: int, status: int, headers: dict[str, str]
) -> Response:
    headers = {**headers, "Content-Length": str(end - start)}
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=MEDIA_TYPE)
    return StreamingResponse(archive.read(start, end), status, headers=headers, media_type=MEDIA_TYPE)
