"""Tasks: submit work to be done later, look, follow, cancel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from api.back.store.records import TaskRecord, TaskState
from api.caller import Scope
from api.front.background import TASKS, submitted
from api.front.calls import caller, json_answer, service
from api.front.endpoint import EVENTS, Endpoint
from api.front.schemas.tasks import TaskFilter, Tasks, TaskSubmission, TaskView
from api.front.sse import HEADERS, PING, JobStream, sse
from api.middle.following import follow
from api.middle.job import Event, Job
from api.middle.tasks import TaskManager

TAG = "Asynchronous tasks"
TASK = "/v1/tasks/{id}"


class TaskStream:
    """`progress` and `output` events, then one named after the outcome, with the task."""

    def piece(self, event: Event) -> bytes:
        return sse(event.data, event.name)

    def end(self, job: Job) -> bytes:
        return last_event(job.record)


def last_event(record: TaskRecord) -> bytes:
    return sse(TaskView.of(record).model_dump(mode="json"), record.state.value)


async def submit(request: Request, submission: TaskSubmission) -> Response:
    asked: Any = submission.root
    return await submitted(request, asked.type, asked.parameters, asked.callback_url)


async def list_tasks(request: Request, wanted: TaskFilter) -> Response:
    records = await service(request).tasks.page(
        caller(request),
        type=wanted.type,
        state=TaskState(wanted.state) if wanted.state else None,
        limit=wanted.limit + 1,
        before=wanted.before,
    )
    page = [TaskView.of(record) for record in records[: wanted.limit]]
    return json_answer(Tasks(data=page, has_more=len(records) > wanted.limit))


async def asked_for(request: Request) -> TaskRecord:
    """The task of the path. Raises NotFound, also for another caller's."""
    return await service(request).tasks.seen_by(caller(request), request.path_params["id"])


async def show_task(request: Request, _: Any) -> Response:
    return json_answer(TaskView.of(await asked_for(request)))


async def cancel_task(request: Request, _: Any) -> Response:
    record = await asked_for(request)
    return json_answer(TaskView.of(await service(request).tasks.cancel(record.id)))


async def follow_task(request: Request, _: Any) -> Response:
    tasks = service(request).tasks
    settings = request.app.state.settings
    record = await asked_for(request)
    job = tasks.active(record.id)
    if job is not None:
        return JobStream(job, TaskStream(), settings, owned=False)
    stream = until_outcome(tasks, record, settings.stream_ping_seconds)
    return StreamingResponse(stream, headers=HEADERS, media_type=EVENTS)


async def until_outcome(tasks: TaskManager, record: TaskRecord, ping_seconds: float) -> AsyncIterator[bytes]:
    """The stream of a task that this façade does not run."""
    async for event in follow(tasks, record, ping_seconds):
        yield PING if event is None else sse(event.data, event.name)
    yield last_event(await tasks.get(record.id))


ENDPOINTS = (
    Endpoint(
        "POST",
        TASKS,
        submit,
        "Submit a task to the queue",
        TAG,
        scope=Scope.TASKS,
        body=TaskSubmission,
        answers={202: TaskView},
    ),
    Endpoint(
        "GET",
        TASKS,
        list_tasks,
        "List tasks, newest first",
        TAG,
        scope=Scope.TASKS,
        query=TaskFilter,
        answers={200: Tasks},
    ),
    Endpoint("GET", TASK, show_task, "Show a task", TAG, scope=Scope.TASKS, answers={200: TaskView}),
    Endpoint(
        "DELETE",
        TASK,
        cancel_task,
        "Cancel a task; a closed one is only shown",
        TAG,
        scope=Scope.TASKS,
        answers={200: TaskView},
    ),
    Endpoint(
        "GET",
        "/v1/tasks/{id}/events",
        follow_task,
        "Follow a task to its outcome",
        TAG,
        scope=Scope.TASKS,
        answers={200: None},
        events=TaskView,
        media_type=EVENTS,
        headed=False,
    ),
)
