"""An endpoint as data: what the router serves and what the OpenAPI document is generated from."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from api.caller import Scope
from api.errors import ApiError, NotFound, Overloaded, RetryLater, ServerFault, Unavailable
from api.front.body import is_multipart, read_json, read_query
from api.front.calls import CallerLeft, allowance_headers, identify, record_change
from api.front.middleware import QUIET
from api.front.problems import LONGEST_NAME, WrongMethod, cut, problem_response
from api.front.site import Site
from api.front.validation import validate

log = logging.getLogger(__name__)

JSON = "application/json"
EVENTS = "text/event-stream"
MODEL = "name"  # in a path: of a model
CROWDED = "crowded"  # in a request's state: it came on a connection above the bound, for health alone


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """One method of one path. `call` gets the request and its validated body or query, or None."""

    method: str
    path: str
    call: Callable[[Request, Any], Awaitable[Response]]
    summary: str
    tag: str
    scope: Scope | None = field(kw_only=True)  # that the caller needs; None: any key will do
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    # Multipart, which the route reads itself; with `body` as well, the request's media type says which it is.
    form: type[BaseModel] | None = None
    takes_bytes: bool = False  # a file's bytes are the body; the route reads them itself
    answers: dict[int, type[BaseModel] | None] = field(default_factory=dict)
    media_type: str = JSON  # of the answer
    events: type[BaseModel] | None = None  # data of each event, where the answer can be a stream
    last_event: str | None = None  # data of the event that ends it, where it has one that is no JSON
    headed: bool = True  # HEAD is answered as GET; False where GET computes
    computes: bool = False  # a GET that makes a model compute: pages of other sites may not cause it
    queueable: bool = False  # `Prefer: respond-async` and an idempotency key are understood
    open: bool = False  # for pages of every site, under every Host
    keyless: bool = False  # a browser opens it before the user can give a key, or a machine that has none

    @property
    def changes(self) -> bool:
        """Whether it changes what the appliance serves, or how: the audit log has every such request."""
        return self.method != "GET" and self.scope in (Scope.MODELS_WRITE, Scope.ADMIN)

    @property
    def ends(self) -> bool:
        """Whether it cancels or deletes what a caller has here: the audit log has it where it was done."""
        return not self.changes and (self.method == "DELETE" or self.path.endswith("/cancel"))

    async def respond(self, request: Request) -> Response:
        """Parse, validate, call. Raises the family of api/errors.py."""
        is_form = self.form is not None and is_multipart(request)
        if self.body is not None and not is_form:
            limit = request.app.state.settings.max_body_bytes
            return await self.call(request, validate(self.body, await read_json(request, limit)))
        if self.query is not None:
            return await self.call(request, validate(self.query, read_query(request), strict=False))
        return await self.call(request, None)


class PathApp:
    """All endpoints of one path, as an ASGI application: methods, errors, answers."""

    def __init__(self, path: str, endpoints: Sequence[Endpoint]) -> None:
        self.path = path
        self._endpoints = {endpoint.method: endpoint for endpoint in endpoints}
        get = self._endpoints.get("GET")
        if get is not None and get.headed:
            self._endpoints["HEAD"] = get
        self._allow = ", ".join(sorted({*self._endpoints, "OPTIONS"}))

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await self._respond(request)
        except CallerLeft:
            return  # no answer can be sent
        response.headers.update(allowance_headers(request))
        endpoint = self._endpoints.get(request.method)
        if endpoint is not None and (endpoint.changes or (endpoint.ends and response.status_code < 400)):
            await record_change(request, response)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        endpoint = self._endpoints.get(request.method)
        try:
            if request.scope["state"].get(CROWDED) and self.path not in QUIET:
                raise Unavailable("all connections are in use")
            if endpoint is None or not endpoint.open:
                site: Site = request.app.state.site
                site.check(request, computes=endpoint is not None and endpoint.computes)
            if endpoint is None or not endpoint.keyless:
                request.state.caller = await identify(request)
            if request.method == "OPTIONS":
                return Response(status_code=204, headers={"Allow": self._allow})
            if endpoint is None:
                refusal = WrongMethod(f"{request.method} is not possible here; possible: {self._allow}")
                return problem_response(refusal, request, {"Allow": self._allow})
            if endpoint.scope is not None:
                request.state.caller.require(endpoint.scope)
            request.state.allowed = True
            if any(len(name) > LONGEST_NAME for name in request.path_params.values()):
                raise NotFound(f"nothing is named {cut(request.url.path)}")
            if MODEL in request.path_params:
                request.state.caller.require_model(request.path_params[MODEL])
            return await endpoint.respond(request)
        except CallerLeft:
            raise
        except ApiError as error:
            if isinstance(error, RetryLater):
                reason = error.reason if isinstance(error, Overloaded) else error.slug
                request.app.state.metrics.refusals.labels(self.path, reason).inc()
            return problem_response(error, request)
        except Exception:
            log.exception("%s %s failed", request.method, request.url.path)
            return problem_response(
                ServerFault("a defect of the server; its log says more under this request id"), request
            )
