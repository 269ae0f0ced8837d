"""Upload of a checkpoint or an artifact, and its conversion as a task."""

from __future__ import annotations

import contextlib

from starlette.requests import Request
from starlette.responses import Response

from api.back.store.records import VersionRecord
from api.caller import Scope
from api.front.background import accepted
from api.front.calls import caller, service
from api.front.endpoint import Endpoint
from api.front.multipart import receive_upload
from api.front.routes.blobs import sha256_of
from api.front.routes.models import TAG
from api.front.schemas.models import UploadDocument, Uploaded, UploadForm, UploadOfBlob
from api.front.schemas.tasks import TaskView
from api.front.validation import validate
from api.middle.schemas.convert import ConvertParameters


async def upload(request: Request, sent_before: UploadOfBlob | None) -> Response:
    models = service(request).models
    form: UploadForm
    if sent_before is not None:
        form = sent_before
        version, new = await models.add_blob(form.name, sha256_of(sent_before.blob))
    else:
        form, version, new = await _receive(request)
    parameters = ConvertParameters(
        model=version.model,
        version=version.version,
        deploy=form.deploy,
        precision=form.precision,
        force=form.force,
    )
    job = await models.convert(parameters, caller(request))
    body = Uploaded(
        model=version.model,
        version=version.version,
        state=version.state.value,
        new=new,
        archive_sha256=version.archive_sha256,
        task=TaskView.of(job.record),
    )
    return accepted(body, job.id)


async def _receive(request: Request) -> tuple[UploadForm, VersionRecord, bool]:
    """The form, and the version that its file is."""
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
        models = service(request).models
        version, new = await models.add_upload(form.name, received.path, received.filename, received.sha256)
    return form, version, new


ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/models",
        upload,
        "Upload a checkpoint or an artifact, and convert it",
        TAG,
        scope=Scope.MODELS_WRITE,
        body=UploadOfBlob,
        form=UploadDocument,
        answers={202: Uploaded},
    ),
)
