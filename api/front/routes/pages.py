"""The web console, the reference, and the styles and scripts of both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from api.errors import NotFound
from api.front.endpoint import Endpoint
from api.front.openapi import openapi_document
from api.front.reference import reference_html

TAG = "Pages"
PAGES = Path(__file__).resolve().parent.parent / "pages"
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}
# A browser asks each time whether a file changed: no page runs with scripts of an earlier release.
CACHE_CONTROL = "no-cache"
HEADERS = {
    "Cache-Control": CACHE_CONTROL,
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    content: bytes
    media_type: str
    etag: str


@cache
def page(name: str) -> str:
    return (PAGES / f"{name}.html").read_text(encoding="utf-8")


@cache
def page_files() -> Mapping[str, PageFile]:
    """The styles and scripts, by name."""
    found = {}
    for path in PAGES.iterdir():
        if path.suffix in MEDIA_TYPES:
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[path.name] = PageFile(content, MEDIA_TYPES[path.suffix], etag)
    return found


async def console(request: Request, _: Any) -> Response:
    return HTMLResponse(page("console"), headers=HEADERS)


async def docs(request: Request, _: Any) -> Response:
    return HTMLResponse(
        reference_html(page("docs"), openapi_document(request.app.state.endpoints)), headers=HEADERS
    )


async def file(request: Request, _: Any) -> Response:
    name = request.path_params["file"]
    found = page_files().get(name)
    if found is None:
        raise NotFound(f"the pages have no file {name!r}")
    headers = {"ETag": found.etag, "Cache-Control": CACHE_CONTROL}
    if request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.media_type)


ENDPOINTS = (
    Endpoint(
        "GET",
        "/",
        console,
        "Web console",
        TAG,
        scope=None,
        answers={200: None},
        media_type="text/html",
        keyless=True,
    ),
    Endpoint(
        "GET",
        "/docs",
        docs,
        "Reference, for people",
        TAG,
        scope=None,
        answers={200: None},
        media_type="text/html",
        keyless=True,
    ),
    Endpoint(
        "GET",
        "/pages/{file}",
        file,
        "A style or a script of these two pages",
        TAG,
        scope=None,
        answers={200: None, 304: None},
        media_type="text/javascript",
        keyless=True,
    ),
)
