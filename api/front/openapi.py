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
from api.front.problems import MEDIA_TYPE, OPENAI_ROUTES, OpenAIError, Problem
from api.middle.schemas.base import TaskParameters

REFERENCE = "#/components/schemas/{model}"
DESCRIPTION = (
    "Language Models as a Service. Errors are problem documents (RFC 9457); on OpenAI's routes, they have "
    "its shape. Every answer carries X-Request-Id; one that you send is kept. 429 and 503 carry Retry-After. "
    f"{DEADLINE_HEADER} (milliseconds) bounds a task: after it, the answer is 504."
)

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
        "components": {"schemas": schemas.definitions},
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
        wanted: dict[tuple[type[BaseModel], Mode], None] = {
            (Problem, "serialization"): None,
            (OpenAIError, "serialization"): None,
        }
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
    for model, media_type in ((endpoint.body, JSON), (endpoint.form, "multipart/form-data")):
        if model is not None:
            content = {media_type: {"schema": schemas.reference(model, "validation")}}
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
    taken = endpoint.body or endpoint.query
    if taken is not None and issubclass(taken, TaskParameters):
        schema = {"type": "integer", "minimum": 1, "maximum": 86_400_000}
        found.append({"name": DEADLINE_HEADER, "in": "header", "required": False, "schema": schema})
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
            content[EVENTS] = {"schema": schemas.reference(endpoint.events, "serialization")}
        responses[str(status)] = {"description": _meaning(status)} | ({"content": content} if content else {})
    openai = endpoint.path in OPENAI_ROUTES
    error = schemas.reference(OpenAIError if openai else Problem, "serialization")
    for group, text in (("4XX", "The request is at fault"), ("5XX", "The server is at fault, or busy")):
        content = {JSON if openai else MEDIA_TYPE: {"schema": error}}
        responses[group] = {"description": text, "content": content}
    return responses


def _meaning(status: int) -> str:
    meanings = {
        200: "The answer",
        201: "Made",
        202: "Accepted; Location names the task",
        204: "Done",
        206: "The range asked for",
        304: "Not changed",
        503: "Not now",
    }
    return meanings[status]
