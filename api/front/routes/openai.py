"""OpenAI's routes, so that its clients work unchanged. Their errors have OpenAI's shape (problems.py)."""

from __future__ import annotations

import base64
import struct
import time
from collections import Counter
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.front.calls import answer_of, json_answer
from api.front.endpoint import Endpoint
from api.front.problems import problem_json
from api.front.routes.inference import outcome_error, submit
from api.front.schemas.openai import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CompletionUsage,
    Embedding,
    Embeddings,
    EmbeddingsRequest,
    EmbeddingsUsage,
)
from api.front.sse import JobStream, first_event, sse
from api.front.validation import validate
from api.middle.job import Event, Job
from api.middle.schemas.generate import EmbedAnswer, EmbedParameters, GenerateAnswer, GenerateParameters

TAG = "OpenAI"
DONE = b"data: [DONE]\n\n"


def completion_head(answer: dict[str, Any]) -> dict[str, Any]:
    """The fields of a completion, or of a chunk of it, around its choices."""
    return {
        "id": f"cmpl-{answer['id']}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": answer["model"],
        "system_fingerprint": f"{answer['model']}-{answer['version']}-{answer['precision']}",
    }


def openai_logprobs(tokens: list[dict[str, Any]] | None, offset: int) -> dict[str, Any] | None:
    """The engine's list of tokens as OpenAI's parallel lists; the first token's text begins at `offset`."""
    if tokens is None:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token["text"])
    return {
        "tokens": [token["text"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [_top(token) for token in tokens],
        "text_offset": offsets,
    }


def _top(token: dict[str, Any]) -> dict[str, float] | None:
    if token["logprob"] is None:
        return None
    return {item["text"]: item["logprob"] for item in (*reversed(token.get("top", ())), token)}


def openai_choice(choice: dict[str, Any], offset: int = 0) -> dict[str, Any]:
    return {
        "index": choice["index"],
        "text": choice["text"],
        "logprobs": openai_logprobs(choice.get("logprobs"), offset),
        "finish_reason": choice.get("finish_reason"),
    }


class CompletionStream:
    def __init__(self, request: Request, include_usage: bool) -> None:
        self._request = request
        self._include_usage = include_usage
        self._offsets: Counter[int] = Counter()  # characters sent, by choice
        self._head: dict[str, Any] | None = None

    def piece(self, event: Event) -> bytes:
        if self._head is None:
            self._head = completion_head(event.data)
        choices = []
        for choice in event.data["choices"]:
            choices.append(openai_choice(choice, self._offsets[choice["index"]]))
            tokens = choice.get("logprobs")
            grown = sum(len(token["text"]) for token in tokens) if tokens else len(choice["text"])
            self._offsets[choice["index"]] += grown
        usage = {"usage": None} if self._include_usage else {}
        return sse({**self._head, "choices": choices, **usage})

    def end(self, job: Job) -> bytes:
        if job.outcome is None or not isinstance(job.outcome.answer, GenerateAnswer):
            return sse(problem_json(outcome_error(job), self._request)[1])
        answer = job.outcome.answer.model_dump()
        last = b""
        if self._include_usage:
            last = sse({**(self._head or completion_head(answer)), "choices": [], "usage": answer["usage"]})
        return last + DONE


async def completions(request: Request, asked: CompletionRequest) -> Response:
    parameters = validate(GenerateParameters, asked.parameters())
    job = submit(request, "generate", parameters)
    if asked.stream:
        await first_event(request, job)
        include_usage = asked.stream_options is not None and asked.stream_options.include_usage
        ping_seconds = request.app.state.settings.stream_ping_seconds
        return JobStream(job, CompletionStream(request, include_usage), ping_seconds=ping_seconds, owned=True)
    answer = (await answer_of(request, job)).model_dump()
    return json_answer(
        Completion(
            **completion_head(answer),
            choices=[_choice(openai_choice(choice)) for choice in answer["choices"]],
            usage=CompletionUsage(**answer["usage"]),
        )
    )


def _choice(choice: dict[str, Any]) -> CompletionChoice:
    logprobs = choice.pop("logprobs")
    return CompletionChoice(**choice, logprobs=CompletionLogprobs(**logprobs) if logprobs else None)


async def embeddings(request: Request, asked: EmbeddingsRequest) -> Response:
    parameters = EmbedParameters(model=asked.model, input=asked.input)
    answer = await answer_of(request, submit(request, "embed", parameters))
    if not isinstance(answer, EmbedAnswer):
        raise TypeError(f"task embed answered {type(answer).__name__}")
    in_base64 = asked.encoding_format == "base64"
    return json_answer(
        Embeddings(
            data=[
                Embedding(index=index, embedding=_base64(vector) if in_base64 else vector)
                for index, vector in enumerate(answer.embeddings)
            ],
            model=answer.model,
            usage=EmbeddingsUsage(
                prompt_tokens=answer.usage.prompt_tokens, total_tokens=answer.usage.total_tokens
            ),
        )
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
        body=CompletionRequest,
        answers={200: Completion},
        events=Completion,
    ),
    Endpoint(
        "POST",
        "/v1/embeddings",
        embeddings,
        "Embed texts",
        TAG,
        body=EmbeddingsRequest,
        answers={200: Embeddings},
    ),
)
