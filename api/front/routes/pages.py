"""The web console and the reference, each one self-contained page."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from api.front.endpoint import Endpoint
from api.front.openapi import openapi_document
from api.front.reference import reference_html

TAG = "Pages"
PAGES = Path(__file__).resolve().parent.parent / "pages"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


@cache
def page(name: str) -> str:
    """A page with its style and script put in, so that it needs no other file."""
    html = (PAGES / f"{name}.html").read_text(encoding="utf-8")
    for mark, file in (
        ("/*style*/", "style.css"),
        ("/*page-style*/", f"{name}.css"),
        ("/*key*/", "key.js"),
        ("/*script*/", f"{name}.js"),
    ):
        html = html.replace(mark, (PAGES / file).read_text(encoding="utf-8"))
    return html


async def console(request: Request, _: Any) -> Response:
    return HTMLResponse(page("console"), headers=HEADERS)


async def docs(request: Request, _: Any) -> Response:
    return HTMLResponse(
        reference_html(page("docs"), openapi_document(request.app.state.endpoints)), headers=HEADERS
    )


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
)
