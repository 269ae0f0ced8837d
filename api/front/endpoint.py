"""An endpoint as data: what the router serves and what the OpenAPI document is generated from."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.errors import ApiError, ServerFault
from api.front.body import read_json, read_query
from api.front.calls import CallerLeft
from api.front.problems import CrossSite, WrongMethod, problem_response
from api.front.validation import validate

log = logging.getLogger(__name__)

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """One method of one path. `call` gets the request and its validated body or query, or None."""

    method: str
    path: str
    call: Callable[[Request, Any], Awaitable[Response]]
    summary: str
    tag: str
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    form: type[BaseModel] | None = None  # multipart; the route reads it itself
    answers: dict[int, type[BaseModel] | None] = field(default_factory=dict)
    media_type: str = JSON  # of the answer
    events: type[BaseModel] | None = None  # data of each event, where the answer can be a stream
    headed: bool = True  # HEAD is answered where GET is; not where GET computes

    async def respond(self, request: Request) -> Response:
        """Parse, validate, call. Raises the family of api/errors.py."""
        if self.body is not None:
            limit = request.app.state.settings.max_body_bytes
            return await self.call(request, validate(self.body, await read_json(request, limit)))
        if self.query is not None:
            return await self.call(request, validate(self.query, read_query(request), strict=False))
        return await self.call(request, None)


def check_site(request: Request) -> None:
    """Forms and some fetches need no CORS permission, so a page anywhere could post to a server on localhost.

    Browsers say where a request comes from (W3C "Fetch Metadata Request Headers"); other clients do not.
    A site may let its own name lead to this machine ("DNS rebinding"), and is no other site then; so a server
    on a loopback address takes changes from a browser only under a name that no site can have.
    """
    if request.method in ("GET", "HEAD"):
        return
    site = request.headers.get("sec-fetch-site")
    if site == "cross-site":
        raise CrossSite("requests that change something are not taken from the pages of other sites")
    bound = request.app.state.settings.host.lower()
    name = _host_name(request.headers.get("host", ""))
    of_browser = site is not None or "origin" in request.headers
    if of_browser and _is_loopback(bound) and name not in ("localhost", bound) and _address(name) is None:
        raise CrossSite(
            f"{name!r} is not a name of this server, which listens on {bound}: open it as localhost"
            " (a proxy before it must pass that on as Host)"
        )


def _host_name(header: str) -> str:
    """`Host` without its port."""
    name = header.partition("]")[0].lstrip("[") if header.startswith("[") else header.partition(":")[0]
    return name.lower().rstrip(".")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


class PathApp:
    """All endpoints of one path, as an ASGI application: methods, errors, answers."""

    def __init__(self, path: str, endpoints: Sequence[Endpoint]) -> None:
        self.path = path
        self._endpoints = {endpoint.method: endpoint for endpoint in endpoints}
        get = self._endpoints.get("GET")
        if get is not None and get.headed:
            self._endpoints["HEAD"] = get
        self._allow = ", ".join(sorted({*self._endpoints, "OPTIONS"}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await self._respond(request)
        except CallerLeft:
            return  # nobody is there to answer
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": self._allow})
        endpoint = self._endpoints.get(request.method)
        if endpoint is None:
            refusal = WrongMethod(f"{request.method} is not possible here; possible: {self._allow}")
            return problem_response(refusal, request, {"Allow": self._allow})
        try:
            check_site(request)
            return await endpoint.respond(request)
        except CallerLeft:
            raise
        except ApiError as error:
            return problem_response(error, request)
        except Exception:
            log.exception("%s %s failed", request.method, request.url.path)
            return problem_response(
                ServerFault("a defect of the server; its log says more under this request id"), request
            )
