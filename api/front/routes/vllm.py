"""vLLM's small routes, which its clients, gateways and evaluation harnesses ask."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.caller import Scope
from api.front.calls import answer_of, json_answer, service
from api.front.endpoint import Endpoint
from api.front.openapi import release
from api.front.routes.inference import submit
from api.front.routes.operations import serving
from api.front.schemas.operations import Serving
from api.front.schemas.vllm import (
    Detokenized,
    DetokenizeRequest,
    Release,
    TokenizedPrompt,
    TokenizeRequest,
    TokenizerInfo,
    TokenizerQuery,
)
from api.middle.handlers import TokenizeHandler
from api.middle.handlers.base import error_field
from api.middle.schemas.generate import TokenizeAnswer, TokenizeParameters

TAG = "vLLM"


async def release_of(_: Request, __: Any) -> Response:
    return json_answer(Release(version=release()))


async def tokenize(request: Request, asked: TokenizeRequest) -> Response:
    found = await _tokenized(request, asked.parameters())
    return json_answer(
        TokenizedPrompt(
            count=len(found.token_ids),
            max_model_len=found.max_model_len,
            tokens=found.token_ids,
            token_strs=found.tokens if asked.return_token_strs else None,
        )
    )


async def detokenize(request: Request, asked: DetokenizeRequest) -> Response:
    with error_field("tokens", ("prompt",)):
        found = await _tokenized(request, asked.parameters())
    return json_answer(Detokenized(prompt=found.text))


async def tokenizer_info(request: Request, asked: TokenizerQuery) -> Response:
    found = await _tokenized(request, TokenizeParameters(model=asked.model, prompt=""))
    return json_answer(
        TokenizerInfo(
            model=found.model,
            model_max_length=found.max_model_len,
            eos_token=found.eos_token,
            bos_token=found.eos_token,
            chat_template=service(request).chat.template_of(found.model, found.version),
        )
    )


async def _tokenized(request: Request, parameters: TokenizeParameters) -> TokenizeAnswer:
    answer: BaseModel = await answer_of(request, submit(request, TokenizeHandler.task_type, parameters))
    if not isinstance(answer, TokenizeAnswer):
        raise TypeError(f"task tokenize answered {type(answer).__name__}")
    return answer


ENDPOINTS = (
    *(
        Endpoint(
            method,
            path,
            serving,
            summary,
            TAG,
            scope=None,
            answers={200: Serving, 503: Serving},
            keyless=True,
        )
        for method, path, summary in (
            ("GET", "/health", "Whether a load balancer should send requests here"),
            ("GET", "/ping", "The same, under SageMaker's name"),
            ("POST", "/ping", "The same"),
        )
    ),
    Endpoint("GET", "/version", release_of, "The release", TAG, scope=None, answers={200: Release}),
    Endpoint(
        "POST",
        "/tokenize",
        tokenize,
        "The tokens of a text, as the model reads it",
        TAG,
        scope=Scope.INFER,
        body=TokenizeRequest,
        answers={200: TokenizedPrompt},
    ),
    Endpoint(
        "POST",
        "/detokenize",
        detokenize,
        "The text of tokens",
        TAG,
        scope=Scope.INFER,
        body=DetokenizeRequest,
        answers={200: Detokenized},
    ),
    Endpoint(
        "GET",
        "/tokenizer_info",
        tokenizer_info,
        "What a client must know of a tokenizer",
        TAG,
        scope=Scope.INFER,
        query=TokenizerQuery,
        answers={200: TokenizerInfo},
        headed=False,
    ),
)
