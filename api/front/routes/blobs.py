"""Uploads by digest, whole or in parts: a connection that breaks costs what it had not yet carried.

A client asks with HEAD what is here: 200 when all of it is, 404 otherwise, with `Range: bytes=0-N` where a
part is. It sends the rest with PUT and `Content-Range: bytes FIRST-LAST/TOTAL`, in any number of parts, in
order. A part is answered 202 with the same Range, the last one 201, and one that does not begin where the
bytes end 416.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from api.back.store.records import Received
from api.caller import Scope
from api.errors import InvalidInput, NotFound
from api.front.calls import CallerLeft, json_answer, service
from api.front.endpoint import Endpoint
from api.front.problems import BadRequest, WrongRange, problem_response
from api.front.routes.models import TAG
from api.front.schemas.models import DIGEST, BlobView
from api.front.validation import shown

BLOB = "/v1/blobs/{digest}"
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII | re.IGNORECASE)


def sha256_of(digest: str) -> str:
    """Raises InvalidInput."""
    if not re.fullmatch(DIGEST, digest) or digest.endswith("\n"):
        raise InvalidInput.of("digest", f"must be sha256: and 64 hexadecimal digits, not {shown(digest)}")
    return digest.removeprefix("sha256:")


async def show(request: Request, _: Any) -> Response:
    digest = request.path_params["digest"]
    received = await service(request).models.received(sha256_of(digest))
    if received.stored:
        return json_answer(BlobView(digest=digest, received=received.size, stored=True))
    missing = NotFound(f"of {digest} {received.size} bytes are here: send the rest with PUT")
    return problem_response(missing, request, _range(received.size))


async def receive(request: Request, _: Any) -> Response:
    digest = request.path_params["digest"]
    sha256 = sha256_of(digest)
    start, total = _place(request)
    try:
        received = await service(request).models.receive(sha256, start, total, _bytes(request))
    except ClientDisconnect:
        raise CallerLeft from None
    if not received.in_order:
        refusal = WrongRange(f"Content-Range begins at byte {start}, but {received.size} bytes are here")
        return problem_response(refusal, request, _range(received.size))
    return _answer(request, digest, received)


def _answer(request: Request, digest: str, received: Received) -> Response:
    view = BlobView(digest=digest, received=received.size, stored=received.stored)
    if received.stored:
        return json_answer(view, 201, {"Location": request.url.path})
    return json_answer(view, 202, _range(received.size))


def _place(request: Request) -> tuple[int, int | None]:
    """Where the body begins, and how many bytes the whole has, if that is known. Raises BadRequest."""
    declared = request.headers.get("content-length", "")
    length = int(declared) if declared.isdigit() else None
    given = request.headers.get("content-range")
    if given is None:
        return 0, length
    match = _CONTENT_RANGE.fullmatch(given.strip())
    if match is None:
        raise BadRequest(f"Content-Range must be `bytes FIRST-LAST/TOTAL`, not {shown(given)}")
    first, last, total = map(int, match.groups())
    if not first <= last < total:
        raise BadRequest(f"Content-Range {shown(given)} is no part of {total} bytes")
    if length is not None and length != last - first + 1:
        raise BadRequest(f"Content-Range {shown(given)} has {last - first + 1} bytes, the body {length}")
    return first, total


async def _bytes(request: Request) -> AsyncIterator[bytes]:
    count = request.app.state.metrics.upload_bytes.inc
    async for chunk in request.stream():
        count(len(chunk))
        yield chunk


def _range(received: int) -> dict[str, str]:
    """As registries of images say how far an upload is."""
    return {"Range": f"bytes=0-{received - 1}"} if received else {}


ENDPOINTS = (
    Endpoint(
        "GET",
        BLOB,
        show,
        "Ask whether an upload by digest is here, or how much of it",
        TAG,
        scope=Scope.MODELS_WRITE,
        answers={200: BlobView},
    ),
    Endpoint(
        "PUT",
        BLOB,
        receive,
        "Send a file by its digest, whole or in parts",
        TAG,
        scope=Scope.MODELS_WRITE,
        takes_bytes=True,
        answers={201: BlobView, 202: BlobView},
    ),
)
