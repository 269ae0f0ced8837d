"""Files, as OpenAI's clients upload and fetch them."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.caller import Scope
from api.front.calls import caller, json_answer, service
from api.front.download import download_response
from api.front.endpoint import Endpoint
from api.front.multipart import receive_upload
from api.front.schemas.files import FileDeleted, FileDocument, FileFilter, FileForm, FileList, FileView
from api.front.validation import validate

TAG = "Files and batches"
FILES = "/v1/files"
FILE = "/v1/files/{id}"
CONTENT = "/v1/files/{id}/content"


async def create_file(request: Request, _: Any) -> Response:
    files = service(request).files
    await files.require_room(caller(request))  # before the bytes come
    settings, metrics = request.app.state.settings, request.app.state.metrics
    received = await receive_upload(
        request,
        settings.back.staging,
        file_field="file",
        max_bytes=settings.max_file_bytes,
        on_bytes=metrics.upload_bytes.inc,
    )
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(received.path.unlink, missing_ok=True)
        form = validate(FileForm, received.fields, strict=False)
        record = await files.add(
            caller(request),
            received.path,
            filename=received.filename,
            size=received.size,
            sha256=received.sha256,
            purpose=form.purpose,
            lifetime=None if form.seconds is None else timedelta(seconds=form.seconds),
        )
    return json_answer(FileView.of(record))


async def list_files(request: Request, wanted: FileFilter) -> Response:
    records = await service(request).files.list(
        caller(request),
        purpose=wanted.purpose,
        limit=wanted.limit + 1,
        after=wanted.after,
        ascending=wanted.order == "asc",
    )
    page = [FileView.of(record) for record in records[: wanted.limit]]
    first_id, last_id = (page[0].id, page[-1].id) if page else (None, None)
    more = len(records) > wanted.limit
    return json_answer(FileList(data=page, first_id=first_id, last_id=last_id, has_more=more))


async def show_file(request: Request, _: Any) -> Response:
    return json_answer(
        FileView.of(await service(request).files.get(caller(request), request.path_params["id"]))
    )


async def delete_file(request: Request, _: Any) -> Response:
    file_id = request.path_params["id"]
    await service(request).files.delete(caller(request), file_id)
    return json_answer(FileDeleted(id=file_id))


async def fetch_file(request: Request, _: Any) -> Response:
    return await download_response(
        request, await service(request).files.download(caller(request), request.path_params["id"])
    )


ENDPOINTS = (
    Endpoint(
        "POST",
        FILES,
        create_file,
        "Upload a file for a batch or a training",
        TAG,
        scope=Scope.TASKS,
        form=FileDocument,
        answers={200: FileView},
    ),
    Endpoint(
        "GET",
        FILES,
        list_files,
        "List your files",
        TAG,
        scope=Scope.TASKS,
        query=FileFilter,
        answers={200: FileList},
    ),
    Endpoint("GET", FILE, show_file, "Show a file", TAG, scope=Scope.TASKS, answers={200: FileView}),
    Endpoint(
        "DELETE", FILE, delete_file, "Delete a file", TAG, scope=Scope.TASKS, answers={200: FileDeleted}
    ),
    Endpoint(
        "GET",
        CONTENT,
        fetch_file,
        "Fetch the content of a file; supports Range and ETag",
        TAG,
        scope=Scope.TASKS,
        answers={200: None, 206: None, 304: None},
        media_type="application/octet-stream",
    ),
)
