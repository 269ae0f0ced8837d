"""Upload of a checkpoint or an artifact, and its conversion as a task."""

from __future__ import annotations

import contextlib
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.back.store.records import VersionRecord
from api.front.calls import caller, service
from api.front.endpoint import Endpoint
from api.front.multipart import receive_upload
from api.front.routes.models import TAG
from api.front.routes.tasks import accepted
from api.front.schemas.models import UploadDocument, Uploaded, UploadForm
from api.front.schemas.tasks import TaskView
from api.front.validation import validate
from api.middle.handlers import ConvertHandler
from api.middle.job import Job
from api.middle.schemas.convert import ConvertParameters
from api.middle.service import Service


async def upload(request: Request, _: Any) -> Response:
    middle = service(request)
    settings, metrics = request.app.state.settings, request.app.state.metrics
    received = await receive_upload(
        request,
        settings.back.staging,
        file_field="file",
        max_bytes=settings.max_archive_bytes,
        on_bytes=metrics.upload_bytes.inc,
    )
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(received.path.unlink, missing_ok=True)
        form = validate(UploadForm, received.fields, strict=False)
        version, new = await middle.backend.models.add_upload(form.name, received.path, received.filename)
    job = await conversion(middle, version, form, caller(request))
    body = Uploaded(
        model=version.model,
        version=version.version,
        state=version.state.value,
        new=new,
        archive_sha256=version.archive_sha256,
        task=TaskView.of(job.record),
    )
    return accepted(body, job)


async def conversion(middle: Service, version: VersionRecord, form: UploadForm, address: str) -> Job:
    """The task that converts the version: the one under way for it where nothing else is asked of it."""
    parameters = ConvertParameters(
        model=version.model,
        version=version.version,
        deploy=form.deploy,
        precision=form.precision,
        force=form.force,
    )
    for job in middle.tasks.find(ConvertHandler.task_type, version.model):
        if job.parameters == parameters:
            return job
    return await middle.tasks.enqueue(ConvertHandler.task_type, parameters, address)


ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/models",
        upload,
        "Upload a checkpoint or an artifact, and convert it",
        TAG,
        form=UploadDocument,
        answers={202: Uploaded},
    ),
)
