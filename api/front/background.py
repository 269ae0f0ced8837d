"""Requests that are answered 202 with a task: headers, and the answer."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.caller import Scope
from api.front.body import with_deadline
from api.front.calls import caller, json_answer, service
from api.front.problems import BadRequest
from api.front.schemas.tasks import TaskView
from api.middle.schemas.base import TaskParameters
from api.middle.submission import IDEMPOTENCY_HEADER, submit

TASKS = "/v1/tasks"
RESPOND_ASYNC = "respond-async"  # RFC 7240, section 4.1
_KEY = re.compile(r'"([!#-\[\]-~ ]{1,255})"|([!#-\[\]-~]{1,255})')


def accepted(body: BaseModel, task_id: str, **headers: str) -> Response:
    """202, with the task's address."""
    return json_answer(body, 202, {"Location": f"{TASKS}/{task_id}", **headers})


async def submitted(
    request: Request, task_type: str, parameters: Any, callback_url: str | None = None, **headers: str
) -> Response:
    """Queue the task, under the nearer of its own deadline and that of the header."""
    if callback_url is not None:
        service(request).callbacks.check(callback_url)
    record = await submit(
        service(request).tasks,
        task_type,
        with_deadline(request, parameters),
        caller(request),
        key=_idempotency_key(request),
        callback_url=callback_url,
    )
    return accepted(TaskView.of(record), record.id, **headers)


def prefers_async(request: Request) -> bool:
    """Whether the caller of a task route wants a task in place of the answer."""
    preferences = ",".join(request.headers.getlist("prefer")).split(",")
    return any(item.partition(";")[0].strip().lower() == RESPOND_ASYNC for item in preferences)


async def submitted_as_preferred(request: Request, task_type: str, parameters: TaskParameters) -> Response:
    """Raises Forbidden: the caller may not have tasks."""
    caller(request).require(Scope.TASKS)
    return await submitted(request, task_type, parameters, **{"Preference-Applied": RESPOND_ASYNC})


def _idempotency_key(request: Request) -> str | None:
    """A string of RFC 9651, or the same without its quotes. Raises BadRequest."""
    given = request.headers.getlist(IDEMPOTENCY_HEADER)
    if not given:
        return None
    found = _KEY.fullmatch(given[0])
    if found is None or len(given) > 1:
        raise BadRequest(
            f'{IDEMPOTENCY_HEADER} must be one string of 1 to 255 visible ASCII characters, without " and \\'
        )
    return found[1] or found[2]
