"""Waiting for a task on behalf of a caller who may leave, and the state that every route needs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from api.errors import Cancelled
from api.middle.job import Job
from api.middle.service import Service
from api.middle.startup import Appliance

DIGEST_LENGTH = 16


class CallerLeft(Cancelled):
    """The caller closed the connection; there is nobody to answer."""

    def __init__(self) -> None:
        super().__init__("the caller left")


def appliance(request: Request) -> Appliance:
    found: Appliance = request.app.state.appliance
    return found


def service(request: Request) -> Service:
    """Raises Unavailable unless the appliance is serving."""
    return appliance(request).service


def caller(request: Request) -> str:
    """The caller's address, as task records keep it."""
    return request.client.host if request.client else "unknown"


def account(request: Request) -> str:
    """Under which name the caller shares a model with others: its address, and its key where it sends one.

    Nobody vouches for the key, so that it separates callers behind one address and joins none of several.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        return caller(request)
    return f"{caller(request)} {hashlib.sha256(key.strip().encode()).hexdigest()[:DIGEST_LENGTH]}"


def json_answer(answer: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(answer.model_dump_json(), status, headers=headers, media_type="application/json")


async def gone(receive: Receive) -> None:
    """Return when the caller has closed the connection. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def watching(receive: Receive, on_gone: Callable[[], None]) -> AsyncIterator[None]:
    """Within it, `on_gone` is called when the caller leaves."""

    async def watch() -> None:
        await gone(receive)
        on_gone()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


async def answer_of(request: Request, job: Job) -> BaseModel:
    """The job's answer. Raises its error, or CallerLeft."""
    async with watching(request.receive, lambda: job.abort(CallerLeft())):
        return await job.answer()
