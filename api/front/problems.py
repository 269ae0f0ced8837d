"""The one table from errors to HTTP: problem documents (RFC 9457), and OpenAI's shape on OpenAI's routes."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.errors import ApiError, NotFound, RetryLater

OPENAI_ROUTES = ("/v1/completions", "/v1/embeddings")
SHARED_ROUTES = "/v1/models"  # and below: OpenAI's clients and ours ask there, so the problem has both shapes
MODEL_FIELDS = ("model", "version")
MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """`slug` ends the problem's `type`; `openai_type` and `openai_code` are OpenAI's names for it."""

    slug: str
    title: str
    status: int
    openai_type: str
    openai_code: str | None = None


def _caller(slug: str, title: str, status: int, code: str | None = None) -> ProblemType:
    return ProblemType(slug, title, status, "invalid_request_error", code)


PROBLEMS: dict[str, ProblemType] = {
    "InvalidInput": _caller("invalid-input", "A field of the request is wrong", 422),
    "NotFound": _caller("not-found", "Not there", 404, "not_found"),
    "Conflict": _caller("conflict", "The present state does not allow it", 409, "conflict"),
    "TooLarge": _caller("too-large", "Too large", 413, "content_too_large"),
    "Overloaded": ProblemType("overloaded", "No room now", 429, "rate_limit_error", "overloaded"),
    "Unavailable": ProblemType("unavailable", "Cannot answer now", 503, "server_error", "unavailable"),
    "DeadlineExceeded": ProblemType(
        "deadline", "The deadline passed", 504, "server_error", "deadline_exceeded"
    ),
    "Cancelled": _caller("cancelled", "The task was cancelled", 409, "cancelled"),
    "ServerFault": ProblemType("server-fault", "A defect of the server", 500, "server_error"),
    "BadRequest": _caller("bad-request", "The request cannot be read", 400),
    "CrossSite": _caller("cross-site", "Another site's page must not change anything", 403, "forbidden"),
    "WrongMethod": _caller("wrong-method", "The route does not know this method", 405, "method_not_allowed"),
    "WrongMediaType": _caller("wrong-media-type", "The body has another type", 415, "unsupported_media_type"),
    "WrongRange": _caller("wrong-range", "The range is outside the file", 416),
}


class BadRequest(ApiError):
    """A request that cannot be read: malformed JSON, a broken multipart body."""


class CrossSite(ApiError):
    """A browser sent it for the page of another site, which the user did not ask to change anything here."""


class WrongMethod(ApiError):
    pass


class WrongMediaType(ApiError):
    pass


class WrongRange(ApiError):
    pass


class OpenAIErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ProblemField(BaseModel):
    field: str = Field(description="Path of the field, `stop.0`.")
    message: str


class Problem(BaseModel):
    """RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = Field(default=None, description="The request's path.")
    request_id: str | None = None
    errors: list[ProblemField] | None = Field(default=None, description="What is wrong with which field.")
    error: OpenAIErrorBody | None = Field(
        default=None, description=f"The same for OpenAI's clients, on {SHARED_ROUTES} and below."
    )


class OpenAIError(BaseModel):
    """OpenAI's error shape."""

    error: OpenAIErrorBody


def problem_of(name: str, detail: str, fields: list[dict[str, str]] | None = None) -> Problem:
    """The problem document for an error by its class's name, as task records keep it."""
    kind = PROBLEMS[name]
    items = [ProblemField(**item) for item in fields] if fields else None
    return Problem(
        type=f"/docs#{kind.slug}", title=kind.title, status=kind.status, detail=detail, errors=items
    )


def problem_json(error: ApiError, request: Request) -> tuple[int, dict[str, Any]]:
    """Status and body for an error, in the shape of the route that it came up on."""
    name = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in PROBLEMS)
    path = request.url.path
    if path in OPENAI_ROUTES:
        status = 400 if PROBLEMS[name].status == 422 else PROBLEMS[name].status
        return status, OpenAIError(error=_openai_body(name, error)).model_dump()
    fields = [{"field": item.field, "message": item.message} for item in error.errors]
    problem = problem_of(name, error.detail, fields)
    if path == SHARED_ROUTES or path.startswith(f"{SHARED_ROUTES}/"):
        problem.error = _openai_body(name, error)
    problem.instance = path
    problem.request_id = request.scope.get("state", {}).get("request_id")
    return problem.status, problem.model_dump(exclude_none=True)


def _openai_body(name: str, error: ApiError) -> OpenAIErrorBody:
    kind, param, code = PROBLEMS[name], None, PROBLEMS[name].openai_code
    if error.errors:
        param = error.errors[0].field
        if name == "NotFound" and param in MODEL_FIELDS:
            code = "model_not_found"
    return OpenAIErrorBody(message=error.detail, type=kind.openai_type, param=param, code=code)


def problem_response(
    error: ApiError, request: Request, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    status, body = problem_json(error, request)
    media_type = MEDIA_TYPE if "title" in body else "application/json"
    sent = dict(headers or {})
    if isinstance(error, RetryLater):
        sent["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return JSONResponse(body, status, headers=sent, media_type=media_type)


def on_no_route(request: Request, error: Exception) -> Response:
    """What Starlette's router finds no route for."""
    return problem_response(NotFound(_no_route(request)), request)


def _no_route(request: Request) -> str:
    paths = [getattr(route, "path", "") for route in request.app.routes]
    close = difflib.get_close_matches(request.url.path, paths, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else "/docs lists the routes"
    return f"no route {request.url.path}; {hint}"


def render_json(value: Any) -> str:
    """Compact JSON, text as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
