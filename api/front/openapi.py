"""The OpenAPI 3.1 document, from the endpoints and the schemas that validate."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.front.body import DEADLINE_HEADER
from api.front.endpoint import EVENTS, JSON, Endpoint
from api.front.problems import MEDIA_TYPE, Problem
from api.front.schemas.tasks import TaskSubmission
from api.middle.schemas.base import TaskParameters
from api.middle.submission import IDEMPOTENCY_HEADER
from runtime.parameters import PARAMETERS

REFERENCE = "#/components/schemas/{model}"
DESCRIPTION = (
    "Language Models as a Service. Errors are problem documents (RFC 9457) whose `error` is OpenAI's. "
    "A parameter of OpenAI's or vLLM's that has no meaning here is accepted where its value changes nothing, "
    "as `best_of: 1` or `skip_special_tokens: true`. Every answer carries X-Request-Id; one that you send is "
    f"kept. 429 and 503 carry Retry-After. {DEADLINE_HEADER} (milliseconds) bounds a task: after it, the "
    "answer is 504."
)

KEY = "api_key"
KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, where the server needs one (`lmaas keys create`), with the scopes named.",
}

Mode = Literal["validation", "serialization"]


@cache
def openapi_document(endpoints: tuple[Endpoint, ...]) -> dict[str, Any]:
    """The whole document, as plain JSON values; made when it is first asked for."""
    schemas = _Schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, schemas)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "LMaaS", "version": release(), "description": DESCRIPTION},
        "paths": paths,
        "components": {"schemas": schemas.definitions, "securitySchemes": {KEY: KEY_SCHEME}},
    }


def release() -> str:
    """The version of the installed package."""
    try:
        return version("lmaas")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0"


class _Schemas:
    """JSON schemas of every model that an endpoint names, by model and use."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        wanted: dict[tuple[type[BaseModel], Mode], None] = {(Problem, "serialization"): None}
        for endpoint in endpoints:
            for taken in (endpoint.body, endpoint.query, endpoint.form):
                if taken is not None:
                    wanted[taken, "validation"] = None
            for given in (*endpoint.answers.values(), endpoint.events):
                if given is not None:
                    wanted[given, "serialization"] = None
        self._references, document = models_json_schema(list(wanted), ref_template=REFERENCE)
        self.definitions: dict[str, Any] = document["$defs"]

    def reference(self, model: type[BaseModel], mode: Mode) -> dict[str, Any]:
        return self._references[model, mode]

    def definition(self, model: type[BaseModel]) -> dict[str, Any]:
        name = self.reference(model, "validation")["$ref"].rsplit("/", 1)[-1]
        found: dict[str, Any] = self.definitions[name]
        return found


def _operation(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(endpoint),
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "parameters": _parameters(endpoint, schemas),
        "responses": _responses(endpoint, schemas),
    }
    content: dict[str, Any] = {"application/octet-stream": {}} if endpoint.takes_bytes else {}
    if not endpoint.keyless:
        # OpenAPI 3.1 lets a scheme that is not OAuth name scopes, too. {}: where no key is needed.
        operation["security"] = [{KEY: [endpoint.scope.value] if endpoint.scope else []}, {}]
    for model, media_type in ((endpoint.body, JSON), (endpoint.form, "multipart/form-data")):
        if model is not None:
            content[media_type] = {"schema": schemas.reference(model, "validation")}
    if content:
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _operation_id(endpoint: Endpoint) -> str:
    words = [word for word in re.split(r"[^a-z0-9]+", endpoint.path) if word and word != "v1"]
    return "_".join([endpoint.method.lower(), *words]) if words else f"{endpoint.method.lower()}_root"


def _parameters(endpoint: Endpoint, schemas: _Schemas) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", endpoint.path)
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    if endpoint.query is not None:
        definition = schemas.definition(endpoint.query)
        for name, schema in definition["properties"].items():
            found.append(
                {
                    "name": name,
                    "in": "query",
                    "required": name in definition.get("required", ()),
                    "description": schema.get("description", ""),
                    "schema": {key: item for key, item in schema.items() if key != "description"},
                }
            )
    if endpoint.takes_bytes:
        text = "Which bytes of the whole these are, `bytes 0-99/200`; without it they are all."
        schema = {"type": "string", "description": text}
        found.append({"name": "Content-Range", "in": "header", "required": False, "schema": schema})
    taken = endpoint.body or endpoint.query
    if taken is not None and issubclass(taken, TaskParameters):
        limits = PARAMETERS["deadline_ms"].range
        schema = {"type": "integer", "minimum": limits.low, "maximum": limits.high}
        found.append({"name": DEADLINE_HEADER, "in": "header", "required": False, "schema": schema})
    schema = {"type": "string"}
    if endpoint.queueable:
        found.append({"name": "Prefer", "in": "header", "required": False, "schema": schema})
    if endpoint.queueable or endpoint.body is TaskSubmission:
        found.append({"name": IDEMPOTENCY_HEADER, "in": "header", "required": False, "schema": schema})
    return found


def _responses(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, model in endpoint.answers.items():
        content: dict[str, Any] = {}
        if model is not None:
            content[endpoint.media_type] = {"schema": schemas.reference(model, "serialization")}
        elif status in (200, 206) and endpoint.media_type != EVENTS:
            content[endpoint.media_type] = {}
        if endpoint.events is not None and status == 200:
            reference = schemas.reference(endpoint.events, "serialization")
            content[EVENTS] = {"schema": _event(reference, endpoint.last_event)}
        responses[str(status)] = {"description": _meaning(status)} | ({"content": content} if content else {})
    error = schemas.reference(Problem, "serialization")
    for group, text in (("4XX", "The request is at fault"), ("5XX", "The server is at fault, or busy")):
        content = {MEDIA_TYPE: {"schema": error}}
        responses[group] = {"description": text, "content": content}
    return responses


def _event(data: dict[str, Any], last: str | None) -> dict[str, Any]:
    """The schema of one server-sent event, as OpenAPI 3.2 writes it; `data` is that of its data."""
    content: dict[str, Any] = {"type": "string", "contentMediaType": JSON, "contentSchema": data}
    if last is not None:
        content = {"anyOf": [content, {"const": last}]}
    return {
        "type": "object",
        "properties": {"event": {"type": "string"}, "data": content},
        "required": ["data"],
    }


def _meaning(status: int) -> str:
    meanings = {
        200: "The answer",
        201: "Made",
        202: "Accepted: a task, which Location names; or a part of an upload",
        204: "Done",
        206: "The range asked for",
        304: "Not changed",
        503: "Not now",
    }
    return meanings[status]
