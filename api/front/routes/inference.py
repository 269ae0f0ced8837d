"""The task APIs: generate, classify, infer, nlu, next, score."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.caller import Scope
from api.errors import ApiError, ServerFault
from api.front.background import prefers_async, submitted_as_preferred
from api.front.body import with_deadline
from api.front.calls import answer_of, caller, json_answer, service
from api.front.endpoint import Endpoint
from api.front.problems import problem_json
from api.front.schemas.tasks import TaskView
from api.front.sse import JobStream, first_event, sse
from api.middle.handlers import (
    ClassifyHandler,
    GenerateHandler,
    InferHandler,
    NextHandler,
    NluHandler,
    ScoreHandler,
)
from api.middle.handlers.base import Handler
from api.middle.job import Event, Job
from api.middle.schemas.base import TaskParameters
from api.middle.schemas.generate import GenerateAnswer, GenerateParameters, GenerateQuery

TAG = "Tasks"
SUMMARIES: dict[type[Handler[Any, Any]], str] = {
    ClassifyHandler: "Give a text one of a trained head's labels, or of yours (zero-shot)",
    InferHandler: "Judge whether a hypothesis follows from a premise",
    NluHandler: "Find the intent and the slots of an utterance",
    NextHandler: "List the likeliest next tokens",
    ScoreHandler: "Score continuations of a prompt by their log-probability",
}


def submit(request: Request, task_type: str, parameters: TaskParameters) -> Job:
    """Start the task, under the nearer of its own deadline and that of the header."""
    parameters = with_deadline(request, parameters)
    return service(request).dispatcher.submit(task_type, parameters, caller(request))


class GenerateStream:
    """Each event is shaped as the answer, with the new text; the last one carries the usage."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def piece(self, event: Event) -> bytes:
        return sse(event.data)

    def end(self, job: Job) -> bytes:
        if job.outcome is not None and isinstance(job.outcome.answer, GenerateAnswer):
            return sse(job.outcome.answer.model_dump(mode="json"))
        return sse(problem_json(outcome_error(job), self._request)[1], "error")


def outcome_error(job: Job) -> ApiError:
    error = job.outcome.error if job.outcome else None
    return error or ServerFault("the task ended without an outcome")


async def generate(request: Request, parameters: GenerateParameters) -> Response:
    if request.method == "POST" and prefers_async(request):
        return await submitted_as_preferred(request, GenerateHandler.task_type, parameters)
    job = submit(request, GenerateHandler.task_type, parameters)
    if not parameters.stream:
        return json_answer(await answer_of(request, job))
    await first_event(request, job)
    return JobStream(job, GenerateStream(request), request.app.state.settings, owned=True)


def _simple(handler: type[Handler[Any, Any]]) -> Callable[[Request, TaskParameters], Awaitable[Response]]:
    async def call(request: Request, parameters: TaskParameters) -> Response:
        if prefers_async(request):
            return await submitted_as_preferred(request, handler.task_type, parameters)
        return json_answer(await answer_of(request, submit(request, handler.task_type, parameters)))

    return call


_GENERATE: dict[str, Any] = {
    "path": "/v1/generate",
    "call": generate,
    "tag": TAG,
    "scope": Scope.INFER,
    "events": GenerateAnswer,
}

ENDPOINTS = (
    Endpoint(
        "POST",
        summary="Continue a text",
        body=GenerateParameters,
        answers={200: GenerateAnswer, 202: TaskView},
        queueable=True,
        **_GENERATE,
    ),
    Endpoint(
        "GET",
        summary="Continue a text, asked in the URL",
        query=GenerateQuery,
        answers={200: GenerateAnswer},
        headed=False,
        computes=True,
        **_GENERATE,
    ),
    *(
        Endpoint(
            "POST",
            f"/v1/{handler.task_type}",
            _simple(handler),
            summary,
            TAG,
            scope=Scope.INFER,
            body=handler.parameters,
            answers={200: handler.answer, 202: TaskView},
            queueable=True,
        )
        for handler, summary in SUMMARIES.items()
    ),
)
