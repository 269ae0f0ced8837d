"""Tasks: submit work to be done later, look, follow, cancel."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.back.store.records import TaskRecord, TaskState
from api.front.body import with_deadline
from api.front.calls import account, caller, json_answer, service
from api.front.endpoint import EVENTS, Endpoint
from api.front.schemas.tasks import TaskFilter, Tasks, TaskSubmission, TaskView
from api.front.sse import HEADERS, JobStream, sse
from api.middle.job import Event, Job

TAG = "Asynchronous tasks"
TASKS = "/v1/tasks"
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
    parameters = with_deadline(request, asked.parameters)
    tasks = service(request).tasks
    job = await tasks.enqueue(asked.type, parameters, caller(request), account(request))
    return accepted(TaskView.of(job.record), job)


def accepted(body: BaseModel, job: Job) -> Response:
    """202, with the task's address."""
    return json_answer(body, 202, {"Location": f"{TASKS}/{job.id}"})


async def list_tasks(request: Request, wanted: TaskFilter) -> Response:
    records = await service(request).backend.tasks.list(
        type=wanted.type,
        state=TaskState(wanted.state) if wanted.state else None,
        limit=wanted.limit + 1,
        before=wanted.before,
    )
    page = [TaskView.of(record) for record in records[: wanted.limit]]
    return json_answer(Tasks(data=page, has_more=len(records) > wanted.limit))


async def show_task(request: Request, _: Any) -> Response:
    return json_answer(TaskView.of(await service(request).tasks.get(request.path_params["id"])))


async def cancel_task(request: Request, _: Any) -> Response:
    return json_answer(TaskView.of(await service(request).tasks.cancel(request.path_params["id"])))


async def follow_task(request: Request, _: Any) -> Response:
    tasks = service(request).tasks
    task_id = request.path_params["id"]
    job = tasks.active(task_id)
    if job is None:
        return Response(last_event(await tasks.get(task_id)), headers=HEADERS, media_type=EVENTS)
    ping_seconds = request.app.state.settings.stream_ping_seconds
    return JobStream(job, TaskStream(), ping_seconds=ping_seconds, owned=False)


ENDPOINTS = (
    Endpoint(
        "POST", TASKS, submit, "Submit a task to the queue", TAG, body=TaskSubmission, answers={202: TaskView}
    ),
    Endpoint(
        "GET", TASKS, list_tasks, "List tasks, newest first", TAG, query=TaskFilter, answers={200: Tasks}
    ),
    Endpoint("GET", TASK, show_task, "Show a task", TAG, answers={200: TaskView}),
    Endpoint(
        "DELETE", TASK, cancel_task, "Cancel a task; a closed one is only shown", TAG, answers={200: TaskView}
    ),
    Endpoint(
        "GET",
        "/v1/tasks/{id}/events",
        follow_task,
        "Follow a task to its outcome",
        TAG,
        answers={200: None},
        events=TaskView,
        media_type=EVENTS,
        headed=False,
    ),
)
