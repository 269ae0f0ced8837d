"""OpenAI's routes, so that its clients work unchanged."""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.caller import Scope
from api.front.calls import answer_of, json_answer
from api.front.endpoint import Endpoint
from api.front.problems import problem_json
from api.front.routes.inference import outcome_error, submit
from api.front.schemas.openai import (
    Completion,
    CompletionChoice,
    CompletionRequest,
    Embedding,
    Embeddings,
    EmbeddingsRequest,
    EmbeddingsUsage,
)
from api.front.sse import JobStream, first_event, sse
from api.front.validation import validate
from api.middle.job import Event, Job
from api.middle.schemas.generate import EmbedAnswer, GenerateAnswer, GenerateParameters
from runtime.messages import Choice, TokenLogprob

TAG = "OpenAI"
LAST_EVENT = "[DONE]"
DONE = f"data: {LAST_EVENT}\n\n".encode()


def openai_head(prefix: str, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a completion, or of a chunk of it, around its choices; `data` is a GenerateAnswer."""
    return {
        "id": f"{prefix}-{data['id']}",
        "object": kind,
        "created": int(time.time()),
        "model": data["model"],
        "system_fingerprint": f"{data['model']}-{data['version']}-{data['precision']}",
    }


def head_of(answer: GenerateAnswer, prefix: str = "cmpl", kind: str = "text_completion") -> dict[str, Any]:
    return openai_head(prefix, kind, vars(answer))


def openai_logprobs(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    """The engine's list of tokens as OpenAI's parallel lists."""
    if tokens is None:
        return None
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_top(token) for token in tokens],
        "text_offset": [token.text_offset for token in tokens],
    }


def _top(token: TokenLogprob) -> dict[str, float] | None:
    """All of them: a token whose text another one has already goes by its id, as vLLM names tokens."""
    if token.logprob is None:
        return None
    found, ids = {token.text: token.logprob}, {token.token_id}
    for item in token.top:
        if item.token_id not in ids:
            ids.add(item.token_id)
            found[f"token_id:{item.token_id}" if item.text in found else item.text] = item.logprob
    return found


def openai_choice(choice: Choice) -> dict[str, Any]:
    return {
        "index": choice.index,
        "text": choice.text,
        "logprobs": openai_logprobs(choice.logprobs),
        "finish_reason": None if choice.finish_reason is None else choice.finish_reason.value,
    }


class AnswerStream:
    """Chunks of an answer of task `generate`; the last one has the usage where it is asked for."""

    def __init__(self, request: Request, include_usage: bool) -> None:
        self._request = request
        self._include_usage = include_usage
        self._head: dict[str, Any] | None = None

    def head(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Around the choices of each chunk; `data` is that of the first event."""
        return openai_head("cmpl", "text_completion", data)

    def choice(self, choice: Choice) -> dict[str, Any]:
        return openai_choice(choice)

    def piece(self, event: Event) -> bytes:
        data = event.data
        if self._head is None:
            self._head = self.head(data)
        choices = [self.choice(Choice.from_json(choice)) for choice in data["choices"]]
        usage = {"usage": None} if self._include_usage else {}
        return sse({**self._head, "choices": choices, **usage})

    def end(self, job: Job) -> bytes:
        if job.outcome is None or not isinstance(job.outcome.answer, GenerateAnswer):
            return sse(problem_json(outcome_error(job), self._request)[1])
        answer = job.outcome.answer
        wanted = {"receipt", *(["usage"] if self._include_usage else [])}
        last = answer.model_dump(mode="json", include=wanted)
        if not last:
            return DONE
        return sse({**(self._head or self.head(vars(answer))), "choices": [], **last}) + DONE


async def completions(request: Request, asked: CompletionRequest) -> Response:
    parameters = validate(GenerateParameters, asked.parameters())
    job = submit(request, "generate", parameters)
    if asked.stream:
        await first_event(request, job)
        form = AnswerStream(request, asked.includes_usage)
        return JobStream(job, form, request.app.state.settings, owned=True)
    return json_answer(completion(await answer_of(request, job)))


def completion(answer: BaseModel) -> Completion:
    """The answer of task `generate` in OpenAI's shape."""
    if not isinstance(answer, GenerateAnswer):
        raise TypeError(f"task generate answered {type(answer).__name__}")
    choices = [CompletionChoice.model_validate(openai_choice(choice)) for choice in answer.choices]
    return Completion(**head_of(answer), choices=choices, usage=answer.usage, receipt=answer.receipt)


async def embeddings(request: Request, asked: EmbeddingsRequest) -> Response:
    answer = await answer_of(request, submit(request, "embed", asked.parameters()))
    return json_answer(embedding_list(answer, asked))


def embedding_list(answer: BaseModel, asked: EmbeddingsRequest) -> Embeddings:
    """The answer of task `embed` in OpenAI's shape."""
    if not isinstance(answer, EmbedAnswer):
        raise TypeError(f"task embed answered {type(answer).__name__}")
    in_base64 = asked.encoding_format == "base64"
    return Embeddings(
        data=[
            Embedding(index=index, embedding=_base64(vector) if in_base64 else vector)
            for index, vector in enumerate(answer.embeddings)
        ],
        model=answer.model,
        usage=EmbeddingsUsage(
            prompt_tokens=answer.usage.prompt_tokens, total_tokens=answer.usage.total_tokens
        ),
    )


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/completions",
        completions,
        "Complete a prompt",
        TAG,
        scope=Scope.INFER,
        body=CompletionRequest,
        answers={200: Completion},
        events=Completion,
        last_event=LAST_EVENT,
    ),
    Endpoint(
        "POST",
        "/v1/embeddings",
        embeddings,
        "Embed texts",
        TAG,
        scope=Scope.INFER,
        body=EmbeddingsRequest,
        answers={200: Embeddings},
    ),
)
