"""Lines of batches: each is read, validated and answered as a single request to its route is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.errors import ApiError, InvalidInput
from api.front.body import MalformedJson, parse_json
from api.front.problems import problem_body
from api.front.routes.chat import chat_completion, conversation
from api.front.routes.inference import SUMMARIES
from api.front.routes.openai import completion, embedding_list
from api.front.schemas.chat import ChatRequest
from api.front.schemas.openai import CompletionRequest, EmbeddingsRequest
from api.front.validation import validate
from api.middle.batch_lines import BatchLine, LineError, LineFormat, LineTask
from api.middle.chat import Chat
from api.middle.handlers import EmbedHandler, GenerateHandler
from api.middle.handlers.base import Handler
from api.middle.schemas.base import Schema
from api.middle.schemas.generate import GenerateParameters

MAX_CUSTOM_ID = 512  # characters
# Parameters of single requests, and why a line cannot have them.
NOT_IN_LINES = {
    "stream": "an answer of a batch cannot be streamed",
    "deadline_ms": "a line has the window of its batch",
}


class Line(Schema):
    """A line of an input file."""

    custom_id: Annotated[str, Field(min_length=1, max_length=MAX_CUSTOM_ID)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


MakeTask = Callable[[Any, Chat], Awaitable[LineTask]]  # of the body of a line


async def _completion(body: Any, _: Chat) -> LineTask:
    asked = validate(CompletionRequest, body)
    parameters = validate(GenerateParameters, asked.parameters())
    return LineTask(
        GenerateHandler.task_type, parameters, lambda answer: _json(completion(answer)), asked.model
    )


async def _chat_completion(body: Any, chat: Chat) -> LineTask:
    asked = validate(ChatRequest, body)
    parameters = await conversation(asked, chat)
    return LineTask(
        GenerateHandler.task_type,
        parameters,
        lambda answer: _json(chat_completion(answer)),
        asked.model,
        prompt_field="messages",
    )


async def _embeddings(body: Any, _: Chat) -> LineTask:
    asked = validate(EmbeddingsRequest, body)
    return LineTask(
        EmbedHandler.task_type,
        asked.parameters(),
        lambda answer: _json(embedding_list(answer, asked)),
        asked.model,
    )


def _task(handler: type[Handler[Any, Any]]) -> MakeTask:
    async def make(body: Any, _: Chat) -> LineTask:
        parameters = validate(handler.parameters, body)
        return LineTask(handler.task_type, parameters, _json, parameters.model)

    return make


def _json(answer: BaseModel) -> dict[str, Any]:
    return answer.model_dump(mode="json")


HANDLERS: tuple[type[Handler[Any, Any]], ...] = (GenerateHandler, *SUMMARIES)
TASKS: Mapping[str, MakeTask] = {
    "/v1/completions": _completion,
    "/v1/chat/completions": _chat_completion,
    "/v1/embeddings": _embeddings,
    **{f"/v1/{handler.task_type}": _task(handler) for handler in HANDLERS},
}


class BatchLines(LineFormat):
    def read(self, raw: bytes, endpoint: str) -> BatchLine:
        try:
            line = validate(Line, parse_json(raw))
        except MalformedJson as error:
            raise LineError("invalid_json_line", f"this line is not parseable as JSON: {error}") from None
        except InvalidInput as error:
            wrong = error.errors[0]
            raise LineError(_code(wrong.field, wrong.message), str(error), wrong.field) from None
        if line.url != endpoint:
            message = f"the url is {line.url[:64]!r}, but the batch is for {endpoint}"
            raise LineError("invalid_url", message, "url")
        for name, reason in NOT_IN_LINES.items():
            if line.body.get(name):
                raise LineError("invalid_value", f"body.{name}: {reason}", f"body.{name}")
        return BatchLine(line.custom_id, line.body)

    async def task(self, endpoint: str, body: Any, chat: Chat) -> LineTask:
        return await TASKS[endpoint](body, chat)

    def refusal(self, endpoint: str, error: ApiError, request_id: str) -> tuple[int, dict[str, Any]]:
        return problem_body(error, endpoint, request_id)


def _code(field: str, message: str) -> str:
    """OpenAI's name of what is wrong with a line."""
    if message == "missing":
        return "missing_required_parameter"
    return "invalid_method" if field == "method" else "invalid_value"
