"""OpenAI's conversations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.caller import Scope
from api.front.calls import answer_of, caller, json_answer, service
from api.front.endpoint import Endpoint
from api.front.routes.inference import submit
from api.front.routes.openai import LAST_EVENT, TAG, AnswerStream, head_of, openai_head
from api.front.schemas.chat import ChatChoice, ChatChunk, ChatCompletion, ChatRequest
from api.front.sse import JobStream, first_event
from api.front.validation import validate
from api.middle.chat import Chat
from api.middle.handlers.base import error_field
from api.middle.schemas.generate import GenerateAnswer, GenerateParameters
from runtime.messages import Choice, ScoredToken, TokenLogprob

PIECE = "bytes:"  # how the text of a token begins that is a piece of a character
ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


async def chat_completions(request: Request, asked: ChatRequest) -> Response:
    caller(request).require_model(asked.model)
    parameters = await conversation(asked, service(request).chat)
    with error_field("messages", ("prompt",)):
        job = submit(request, "generate", parameters)
        if asked.stream:
            await first_event(request, job)
            form = ChatStream(request, asked.includes_usage)
            return JobStream(job, form, request.app.state.settings, owned=True)
        return json_answer(chat_completion(await answer_of(request, job)))


async def conversation(asked: ChatRequest, chat: Chat) -> GenerateParameters:
    """The same request as task `generate`; the model's template makes the prompt. Raises ApiError."""
    found = await chat.conversation(
        asked.model,
        [message.values() for message in asked.messages],
        add_generation_prompt=asked.add_generation_prompt is not False,
    )
    target = found.target
    given = asked.parameters(found.prompt, found.stops, target.context_length)
    return validate(GenerateParameters, {**given, "model": target.model, "version": target.version})


def chat_completion(answer: BaseModel) -> ChatCompletion:
    """The answer of task `generate` in OpenAI's shape."""
    if not isinstance(answer, GenerateAnswer):
        raise TypeError(f"task generate answered {type(answer).__name__}")
    choices = [
        ChatChoice.model_validate(
            {**_around(choice), "message": {"role": "assistant", "content": choice.text}}
        )
        for choice in answer.choices
    ]
    head = head_of(answer, "chatcmpl", "chat.completion")
    return ChatCompletion(**head, choices=choices, usage=answer.usage, receipt=answer.receipt)


class ChatStream(AnswerStream):
    """The first piece of each choice has the role."""

    def __init__(self, request: Request, include_usage: bool) -> None:
        super().__init__(request, include_usage)
        self._begun: set[int] = set()

    def head(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return openai_head("chatcmpl", "chat.completion.chunk", data)

    def choice(self, choice: Choice) -> dict[str, Any]:
        delta = {"content": choice.text}
        if choice.index not in self._begun:
            self._begun.add(choice.index)
            delta = {"role": "assistant", **delta}
        return {**_around(choice), "delta": delta}


def _around(choice: Choice) -> dict[str, Any]:
    """The fields of a choice beside its text."""
    return {
        "index": choice.index,
        "logprobs": _logprobs(choice.logprobs),
        "finish_reason": None if choice.finish_reason is None else choice.finish_reason.value,
    }


def _logprobs(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    content = [{**_token(token), "top_logprobs": [_token(other) for other in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _token(token: TokenLogprob | ScoredToken) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": _bytes(token.text)}


def _bytes(text: str) -> list[int]:
    """The bytes of a token, of which `Tokenizer.token_text` made the text."""
    if not text.startswith(PIECE) or not ESCAPE.search(text):
        return list(text.encode())
    piece = ESCAPE.sub(lambda found: chr(int(found[1], 16)), text.removeprefix(PIECE))
    return list(piece.encode("latin-1"))


ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/chat/completions",
        chat_completions,
        "Answer a conversation",
        TAG,
        scope=Scope.INFER,
        body=ChatRequest,
        answers={200: ChatCompletion},
        events=ChatChunk,
        last_event=LAST_EVENT,
    ),
)
