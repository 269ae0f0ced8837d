"""Batches, as OpenAI's clients submit and follow them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.caller import Scope
from api.front.calls import caller, json_answer, service
from api.front.endpoint import Endpoint
from api.front.routes.files import TAG
from api.front.schemas.batches import BatchFilter, BatchList, BatchRequest, BatchView

BATCHES = "/v1/batches"
BATCH = "/v1/batches/{id}"


async def create_batch(request: Request, asked: BatchRequest) -> Response:
    record = await service(request).batches.create(
        caller(request), asked.endpoint, asked.completion_window, asked.input_file_id, asked.metadata
    )
    return json_answer(BatchView.of(record))


async def list_batches(request: Request, wanted: BatchFilter) -> Response:
    records = await service(request).batches.list(caller(request), limit=wanted.limit + 1, after=wanted.after)
    page = [BatchView.of(record) for record in records[: wanted.limit]]
    first_id, last_id = (page[0].id, page[-1].id) if page else (None, None)
    more = len(records) > wanted.limit
    return json_answer(BatchList(data=page, first_id=first_id, last_id=last_id, has_more=more))


async def show_batch(request: Request, _: Any) -> Response:
    record = await service(request).batches.get(caller(request), request.path_params["id"])
    return json_answer(BatchView.of(record))


async def cancel_batch(request: Request, _: Any) -> Response:
    record = await service(request).batches.cancel(caller(request), request.path_params["id"])
    return json_answer(BatchView.of(record))


ENDPOINTS = (
    Endpoint(
        "POST",
        BATCHES,
        create_batch,
        "Run the requests of a file in the gaps that other work leaves",
        TAG,
        scope=Scope.TASKS,
        body=BatchRequest,
        answers={200: BatchView},
    ),
    Endpoint(
        "GET",
        BATCHES,
        list_batches,
        "List your batches",
        TAG,
        scope=Scope.TASKS,
        query=BatchFilter,
        answers={200: BatchList},
    ),
    Endpoint("GET", BATCH, show_batch, "Show a batch", TAG, scope=Scope.TASKS, answers={200: BatchView}),
    Endpoint(
        "POST",
        "/v1/batches/{id}/cancel",
        cancel_batch,
        "Cancel a batch; what is done stays",
        TAG,
        scope=Scope.TASKS,
        answers={200: BatchView},
    ),
)
