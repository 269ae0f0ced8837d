"""Models and their versions: list, show, change, download, delete."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.back.store.archives import MEDIA_TYPE
from api.back.store.records import ModelRecord
from api.caller import Scope
from api.errors import NotFound
from api.front.calls import caller, json_answer, service
from api.front.download import download_response
from api.front.endpoint import Endpoint
from api.front.schemas.models import (
    CalibrationSettings,
    DeleteQuery,
    History,
    HistoryEntry,
    HistoryFilter,
    MemoryView,
    ModelChange,
    Models,
    ModelView,
    VersionView,
)
from runtime.calibration import Calibration

TAG = "Models"
ARCHIVE = "/v1/models/{name}/versions/{version}/archive"


def version_of(request: Request) -> int | str:
    """The version in the path: a number or an alias."""
    text: str = request.path_params["version"]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


def view(request: Request, record: ModelRecord) -> ModelView:
    models = service(request).models
    return ModelView.of(record, models.deployments(record.name), models.context_length(record.name))


async def list_models(request: Request, _: Any) -> Response:
    records = await service(request).models.list_models()
    return json_answer(Models(data=[view(request, record) for record in records]))


async def show_model(request: Request, _: Any) -> Response:
    record = await service(request).models.get(request.path_params["name"])
    return json_answer(view(request, record))


async def change_model(request: Request, change: ModelChange) -> Response:
    models = service(request).models
    name = request.path_params["name"]
    record = await models.update(
        caller(request), name, description=change.description, aliases=change.aliases
    )
    return json_answer(view(request, record))


async def delete_model(request: Request, asked: DeleteQuery) -> Response:
    models = service(request).models
    await models.delete(request.path_params["name"], caller(request), force=asked.force)
    return Response(status_code=204)


async def history(request: Request, asked: HistoryFilter) -> Response:
    name, limit = request.path_params["name"], asked.limit
    rows = await service(request).models.history(name, limit=limit + 1, before=asked.before)
    page = [HistoryEntry.of(row) for row in rows[:limit]]
    return json_answer(History(data=page, has_more=len(rows) > limit))


async def show_version(request: Request, _: Any) -> Response:
    models = service(request).models
    return json_answer(VersionView.of(await models.version(request.path_params["name"], version_of(request))))


async def show_memory(request: Request, _: Any) -> Response:
    models = service(request).models
    return json_answer(MemoryView.of(await models.memory(request.path_params["name"], version_of(request))))


async def delete_version(request: Request, asked: DeleteQuery) -> Response:
    models = service(request).models
    name = request.path_params["name"]
    await models.delete_version(name, version_of(request), caller(request), force=asked.force)
    return Response(status_code=204)


async def show_calibration(request: Request, _: Any) -> Response:
    name, version = request.path_params["name"], version_of(request)
    record = await service(request).models.version(name, version)
    if record.calibration is None:
        raise NotFound(f"model {name!r} version {record.version} has no calibration", "version")
    return json_answer(CalibrationSettings.of(record.calibration))


async def calibrate(request: Request, asked: CalibrationSettings) -> Response:
    name, version = request.path_params["name"], version_of(request)
    found = Calibration(**asked.model_dump())
    record = await service(request).models.calibrate(name, version, found, caller(request))
    return json_answer(VersionView.of(record))


async def delete_calibration(request: Request, _: Any) -> Response:
    name, version = request.path_params["name"], version_of(request)
    await service(request).models.calibrate(name, version, None, caller(request))
    return Response(status_code=204)


async def download(request: Request, _: Any) -> Response:
    models = service(request).models
    archive = await models.archive(request.path_params["name"], version_of(request))
    return await download_response(request, archive)


MODEL = "/v1/models/{name}"
HISTORY = "/v1/models/{name}/history"
VERSION = "/v1/models/{name}/versions/{version}"
CALIBRATION = "/v1/models/{name}/versions/{version}/calibration"

ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/models",
        list_models,
        "List the models",
        TAG,
        scope=Scope.MODELS_READ,
        answers={200: Models},
    ),
    Endpoint(
        "GET", MODEL, show_model, "Show a model", TAG, scope=Scope.MODELS_READ, answers={200: ModelView}
    ),
    Endpoint(
        "PATCH",
        MODEL,
        change_model,
        "Change description and aliases",
        TAG,
        scope=Scope.MODELS_WRITE,
        body=ModelChange,
        answers={200: ModelView},
    ),
    Endpoint(
        "DELETE",
        MODEL,
        delete_model,
        "Delete a model; force undeploys it first",
        TAG,
        scope=Scope.MODELS_WRITE,
        query=DeleteQuery,
        answers={204: None},
    ),
    Endpoint(
        "GET",
        HISTORY,
        history,
        "List who deployed, undeployed, deleted or gave an alias to which version, newest first",
        TAG,
        scope=Scope.MODELS_READ,
        query=HistoryFilter,
        answers={200: History},
    ),
    Endpoint(
        "GET",
        VERSION,
        show_version,
        "Show a version, by number or alias",
        TAG,
        scope=Scope.MODELS_READ,
        answers={200: VersionView},
    ),
    Endpoint(
        "GET",
        f"{VERSION}/memory",
        show_memory,
        "What memory a replica of each variant takes, and what the servers have free",
        TAG,
        scope=Scope.MODELS_READ,
        answers={200: MemoryView},
    ),
    Endpoint(
        "DELETE",
        VERSION,
        delete_version,
        "Delete a version; force undeploys it first",
        TAG,
        scope=Scope.MODELS_WRITE,
        query=DeleteQuery,
        answers={204: None},
    ),
    Endpoint(
        "GET",
        CALIBRATION,
        show_calibration,
        "Show what corrects the scores of a version",
        TAG,
        scope=Scope.MODELS_READ,
        answers={200: CalibrationSettings},
    ),
    Endpoint(
        "PUT",
        CALIBRATION,
        calibrate,
        "Correct the scores of a version from now on, by a temperature and a threshold",
        TAG,
        scope=Scope.MODELS_WRITE,
        body=CalibrationSettings,
        answers={200: VersionView},
    ),
    Endpoint(
        "DELETE",
        CALIBRATION,
        delete_calibration,
        "Let a version's scores be as the model gives them",
        TAG,
        scope=Scope.MODELS_WRITE,
        answers={204: None},
    ),
    Endpoint(
        "GET",
        ARCHIVE,
        download,
        "Download a version's artifact",
        TAG,
        scope=Scope.MODELS_READ,
        answers={200: None, 206: None, 304: None},
        media_type=MEDIA_TYPE,
    ),
)
