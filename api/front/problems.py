"""The one table from errors to HTTP: problem documents (RFC 9457) that have OpenAI's `error` too."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.errors import ApiError, FieldError, NotFound, RetryLater, Unauthorized

OPENAI_ROUTES = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/files",
    "/v1/batches",
)  # what is 422 elsewhere is 400 there, as with OpenAI
OPENAI_SERVED = (*OPENAI_ROUTES, "/v1/models")
# First steps of the paths of OpenAI's API that nothing answers here.
OPENAI_UNSERVED = tuple(
    f"/v1/{name}"
    for name in (
        "responses", "conversations", "assistants", "threads", "vector_stores", "moderations", "audio",
        "images", "videos", "realtime", "fine_tuning", "evals", "containers", "organization", "chat",
        "engines", "edits", "completions/", "embeddings/", "chatkit", "graders", "skills",
    )
)  # fmt: skip
LONGEST_NAME = 200  # characters
MODEL_FIELDS = ("model", "version")
MEDIA_TYPE = "application/problem+json"


# The reason phrases of RFC 9110, section 15, and RFC 6585 (429, 431): the standard library's differ from one
# release of Python to the next.
PHRASES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    507: "Insufficient Storage",
}


@dataclass(frozen=True, slots=True)
class ProblemType:
    """`meaning` explains it in the reference; `openai_type` and `openai_code` are OpenAI's names for it."""

    status: int
    meaning: str
    openai_type: str
    openai_code: str | None = None

    @property
    def title(self) -> str:
        return PHRASES[self.status]


def _client(status: int, meaning: str, code: str | None = None) -> ProblemType:
    return ProblemType(status, meaning, "invalid_request_error", code)


def _server(status: int, meaning: str, code: str | None = None) -> ProblemType:
    return ProblemType(status, meaning, "server_error", code)


# By the slug of the error, which ends the problem's `type`.
PROBLEMS: dict[str, ProblemType] = {
    "invalid-input": _client(422, "A field of the request is wrong"),
    "context-exceeded": _client(422, "More tokens than the model's context holds", "context_length_exceeded"),
    "unauthorized": _client(401, "The route needs an API key that is valid", "invalid_api_key"),
    "forbidden": _client(403, "The caller lacks the scope that the route needs", "forbidden"),
    "not-found": _client(404, "The model, version, deployment, task or route does not exist", "not_found"),
    "conflict": _client(409, "The present state does not allow it", "conflict"),
    "too-large": _client(413, "The body or the archive is larger than its limit", "content_too_large"),
    "overloaded": ProblemType(
        429, "Too many requests are in flight, or too many tasks wait", "rate_limit_error", "overloaded"
    ),
    "rate-limited": ProblemType(
        429, "A limit of the caller's API key is reached", "rate_limit_error", "rate_limit_exceeded"
    ),
    "unavailable": _server(503, "The model server cannot answer now", "unavailable"),
    "store-unavailable": _server(
        503, "The database or the blob store cannot be used now", "store_unavailable"
    ),
    "store-full": _server(507, "The disk is full", "store_full"),
    "deadline": _server(504, "The deadline passed", "deadline_exceeded"),
    "cancelled": _client(409, "The task was cancelled", "cancelled"),
    "unsupported": _server(501, "The server is installed, or set, without what the request needs"),
    "server-fault": _server(500, "A defect of the server"),
    "bad-request": _client(400, "The request cannot be read"),
    "cross-site": _client(403, "Requests from pages of other sites are not accepted", "forbidden"),
    "wrong-method": _client(405, "The route does not have this method", "method_not_allowed"),
    "wrong-media-type": _client(415, "The body has another media type", "unsupported_media_type"),
    "head-too-large": _client(431, "The head of the request is too large"),
    "address-too-long": _client(414, "The address is too long"),
    "too-slow": _client(408, "The request came too slowly", "request_timeout"),
    "wrong-range": _client(416, "The range is outside the file"),
    "changed-meanwhile": _client(412, "What If-Match names is not what is there now"),
}


class BadRequest(ApiError):
    """The request cannot be read: malformed JSON, a broken multipart body."""

    slug = "bad-request"


class CrossSite(ApiError):
    """A page of another site may have made a browser send the request (api/front/site.py)."""

    slug = "cross-site"


class WrongMethod(ApiError):
    slug = "wrong-method"


class WrongMediaType(ApiError):
    slug = "wrong-media-type"


class WrongEncoding(WrongMediaType):
    """The body is packed in a way that is not read."""


class WrongRange(ApiError):
    slug = "wrong-range"


class ChangedMeanwhile(ApiError):
    """What the caller's If-Match expects is not there."""

    slug = "changed-meanwhile"


class HeadTooLarge(ApiError):
    slug = "head-too-large"


class AddressTooLong(ApiError):
    slug = "address-too-long"


class TooSlow(ApiError):
    """The head or the body did not come within its time."""

    slug = "too-slow"


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
    error: OpenAIErrorBody | None = Field(default=None, description="The same for OpenAI's clients.")


def problem_of(slug: str, detail: str, errors: Sequence[FieldError] = ()) -> Problem:
    """The problem document for an error by its slug, as task records keep it."""
    kind = PROBLEMS[slug]
    fields = [ProblemField(field=error.field, message=error.message) for error in errors]
    return Problem(
        type=f"/docs#{slug}", title=kind.title, status=kind.status, detail=detail, errors=fields or None
    )


def problem_json(error: ApiError, request: Request) -> tuple[int, dict[str, Any]]:
    """Status and body for an error."""
    return problem_body(error, request.url.path, request.scope.get("state", {}).get("request_id"))


def problem_body(error: ApiError, path: str, request_id: str | None) -> tuple[int, dict[str, Any]]:
    """Status and body for an error of a request to `path`."""
    problem = problem_of(error.slug, error.detail, error.errors)
    problem.instance = cut(path)
    problem.request_id = request_id
    if problem.status == 422 and problem.instance in OPENAI_ROUTES:
        problem.status = 400
    body = {**problem.model_dump(exclude_none=True), "error": openai_body(error).model_dump()}
    return problem.status, body


def openai_body(error: ApiError) -> OpenAIErrorBody:
    kind, param = PROBLEMS[error.slug], None
    code = kind.openai_code
    if error.errors:
        param = error.errors[0].field
        if isinstance(error, NotFound) and param in MODEL_FIELDS:
            code = "model_not_found"
    return OpenAIErrorBody(message=error.detail, type=kind.openai_type, param=param, code=code)


def problem_response(
    error: ApiError, request: Request, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    status, body = problem_json(error, request)
    return JSONResponse(body, status, headers={**(headers or {}), **headers_of(error)}, media_type=MEDIA_TYPE)


def headers_of(error: ApiError) -> dict[str, str]:
    """The fields of the head that belong to an error."""
    if isinstance(error, WrongEncoding):
        return {"Accept-Encoding": "gzip"}  # RFC 9110, section 15.5.16
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": 'Bearer realm="lmaas"'}  # RFC 6750, section 3
    return retry_headers(error)


def retry_headers(error: ApiError) -> dict[str, str]:
    """When the client may try again, where that helps."""
    if not isinstance(error, RetryLater):
        return {}
    return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}


def on_no_route(request: Request, error: Exception) -> Response:
    """For a request that Starlette's router finds no route for."""
    return problem_response(NotFound(_no_route(request)), request)


def _no_route(request: Request) -> str:
    path = cut(request.url.path)
    if path.startswith(OPENAI_UNSERVED):
        return f"no route {path}: of OpenAI's API this server has {', '.join(OPENAI_SERVED)}"
    paths = [getattr(route, "path", "") for route in request.app.routes]
    close = difflib.get_close_matches(path, paths, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else "/docs lists the routes"
    return f"no route {path}; {hint}"


def cut(text: str) -> str:
    """As much of what the caller named as an answer repeats."""
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…"


def render_json(value: Any) -> str:
    """Compact JSON, text as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
