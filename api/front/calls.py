"""Waiting for a task on behalf of a caller who may leave, and the state that every route needs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from api.caller import Caller
from api.errors import Cancelled, Unavailable
from api.middle.job import Job
from api.middle.service import Service
from api.middle.startup import Appliance


class CallerLeft(Cancelled):
    """The caller closed the connection, so that no answer can be sent."""

    def __init__(self) -> None:
        super().__init__("the caller left")


def appliance(request: Request) -> Appliance:
    found: Appliance = request.app.state.appliance
    return found


def service(request: Request) -> Service:
    """Raises Unavailable unless the appliance is serving."""
    return appliance(request).service


async def identify(request: Request) -> Caller:
    """Who sent the request, by its API key (RFC 6750). Raises Unauthorized, Unavailable."""
    address = request.client.host if request.client else "unknown"
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return await appliance(request).keys.identify(address, key.strip() if scheme.lower() == "bearer" else "")


def caller(request: Request) -> Caller:
    """The caller, as `identify` found it before the route was called."""
    found: Caller = request.state.caller
    return found


def allowance_headers(request: Request) -> dict[str, str]:
    """What the rates of the caller's key have left, in the fields that OpenAI's clients read."""
    caller: Caller | None = getattr(request.state, "caller", None)
    headers: dict[str, str] = {}
    if caller is not None and caller.limits.has_rates:
        with contextlib.suppress(Unavailable):  # not serving
            for left in service(request).allowances(caller):
                headers[f"x-ratelimit-limit-{left.kind}"] = str(left.limit)
                headers[f"x-ratelimit-remaining-{left.kind}"] = str(left.remaining)
                headers[f"x-ratelimit-reset-{left.kind}"] = f"{left.reset_seconds:.3f}s"
    return headers


async def record_change(request: Request, response: Response) -> None:
    """Put it into the audit log before the answer leaves; callers without the scope cannot fill the log."""
    if not getattr(request.state, "allowed", False):
        return
    with contextlib.suppress(Unavailable):  # not serving, so that nothing was changed
        await service(request).accounts.record(
            caller(request),
            request.method,
            request.url.path,
            str(response.status_code),
            request.scope["state"].get("request_id"),
        )


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
