"""Models and their versions: list, show, change, download, delete."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.front.archive_response import archive_response
from api.front.calls import json_answer, service
from api.front.endpoint import Endpoint
from api.front.schemas.models import ModelChange, Models, ModelView, VersionView

TAG = "Models"
ARCHIVE = "/v1/models/{name}/versions/{version}/archive"


def version_of(request: Request) -> int | str:
    """The version in the path: a number or an alias."""
    text: str = request.path_params["version"]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


async def view(request: Request, name: str) -> ModelView:
    backend = service(request).backend
    record = await backend.models.get(name)
    return ModelView.of(record, await backend.models.versions(name), backend.cluster.deployments())


async def list_models(request: Request, _: Any) -> Response:
    records = await service(request).backend.models.list()
    return json_answer(Models(data=[await view(request, record.name) for record in records]))


async def show_model(request: Request, _: Any) -> Response:
    return json_answer(await view(request, request.path_params["name"]))


async def change_model(request: Request, change: ModelChange) -> Response:
    name = request.path_params["name"]
    await service(request).backend.models.update(name, description=change.description, aliases=change.aliases)
    return json_answer(await view(request, name))


async def delete_model(request: Request, _: Any) -> Response:
    await service(request).delete_model(request.path_params["name"])
    return Response(status_code=204)


async def show_version(request: Request, _: Any) -> Response:
    models = service(request).backend.models
    return json_answer(VersionView.of(await models.version(request.path_params["name"], version_of(request))))


async def delete_version(request: Request, _: Any) -> Response:
    await service(request).delete_version(request.path_params["name"], version_of(request))
    return Response(status_code=204)


async def download(request: Request, _: Any) -> Response:
    models = service(request).backend.models
    return archive_response(request, await models.archive(request.path_params["name"], version_of(request)))


MODEL = "/v1/models/{name}"
VERSION = "/v1/models/{name}/versions/{version}"

ENDPOINTS = (
    Endpoint("GET", "/v1/models", list_models, "List the models", TAG, answers={200: Models}),
    Endpoint("GET", MODEL, show_model, "Show a model", TAG, answers={200: ModelView}),
    Endpoint(
        "PATCH",
        MODEL,
        change_model,
        "Change description and aliases",
        TAG,
        body=ModelChange,
        answers={200: ModelView},
    ),
    Endpoint("DELETE", MODEL, delete_model, "Undeploy and delete a model", TAG, answers={204: None}),
    Endpoint(
        "GET", VERSION, show_version, "Show a version, by number or alias", TAG, answers={200: VersionView}
    ),
    Endpoint("DELETE", VERSION, delete_version, "Undeploy and delete a version", TAG, answers={204: None}),
    Endpoint(
        "GET",
        ARCHIVE,
        download,
        "Download a version's artifact",
        TAG,
        answers={200: None, 206: None, 304: None},
        media_type="application/gzip",
    ),
)
