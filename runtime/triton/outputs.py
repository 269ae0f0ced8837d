"""Answers of the engine as Triton responses, those of Triton's vLLM backend among the tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from runtime.contract import Fault, FaultCode, LmTensors
from runtime.messages import Answer, Choice, Generated, TokenLogprob
from runtime.request import Request
from runtime.triton.inputs import RequestedOutputs

_CODES = {
    FaultCode.INVALID_ARGUMENT: "INVALID_ARG",
    FaultCode.CONTEXT_LENGTH: "INVALID_ARG",
    FaultCode.QUEUE_FULL: "UNAVAILABLE",
    FaultCode.DEADLINE_EXCEEDED: "CANCELLED",
    FaultCode.CANCELLED: "CANCELLED",
    FaultCode.UNAVAILABLE: "UNAVAILABLE",
    FaultCode.INTERNAL: "INTERNAL",
}


class ResponseBuilder:
    """Builds the responses of one request; its texts go side by side in every response."""

    def __init__(self, requested: RequestedOutputs, request: Request) -> None:
        self._requested = requested
        num_choices = request.parameters.n
        # The last known state of each choice, for those that have nothing new in a response.
        self._last = [Choice(index, "", [], None, None, 0.0) for index in range(num_choices)]
        self._first = True

    def build(self, answer: Answer) -> Any:
        tensors = []
        if LmTensors.DETAILS in self._requested.names:
            tensors.append(details_tensor(as_json(answer.to_json())))
        if isinstance(answer, Generated):
            choices = self._all_choices(answer)
            makers = self._makers(answer)
            tensors += [make(choices) for name, make in makers.items() if name in self._requested.names]
        self._first = False
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def _all_choices(self, answer: Generated) -> list[Choice]:
        news = {choice.index: choice for choice in answer.choices}
        choices = [news.get(last.index, last) for last in self._last]
        self._last = [
            Choice(choice.index, "", [], None, choice.finish_reason, choice.cumulative_logprob)
            for choice in choices
        ]
        return choices

    def _makers(self, answer: Generated) -> dict[str, Callable[[list[Choice]], Any]]:
        begin = answer.prompt if self._requested.prepend_input and self._first else ""
        return {
            LmTensors.TEXT_OUTPUT: lambda choices: _bytes_tensor(
                LmTensors.TEXT_OUTPUT, [begin + choice.text for choice in choices]
            ),
            "finish_reason": lambda choices: _bytes_tensor(
                "finish_reason",
                ["None" if c.finish_reason is None else c.finish_reason.value for c in choices],
            ),
            "cumulative_logprob": lambda choices: pb_utils.Tensor(
                "cumulative_logprob", np.array([c.cumulative_logprob for c in choices], np.float32)
            ),
            "logprobs": lambda choices: _bytes_tensor("logprobs", [_logprobs(c) for c in choices]),
            "token_ids": lambda choices: pb_utils.Tensor(
                "token_ids", np.array([token for c in choices for token in c.token_ids], np.int64)
            ),
            "num_input_tokens": lambda _: pb_utils.Tensor(
                "num_input_tokens", np.array([answer.prompt_tokens], np.uint32)
            ),
            "num_output_tokens": lambda choices: pb_utils.Tensor(
                "num_output_tokens", np.array([len(c.token_ids) for c in choices], np.uint32)
            ),
        }


def as_json(details: dict[str, Any]) -> str:
    return json.dumps(details, allow_nan=False, separators=(",", ":"))


def details_tensor(content: str) -> Any:
    return _bytes_tensor(LmTensors.DETAILS, [content])


def _logprobs(choice: Choice) -> str:
    """As the vLLM backend writes them: for each token an object from token id to logprob, rank and text."""
    if choice.logprobs is None:
        return "null"
    return json.dumps([_ranked(record) for record in choice.logprobs])


def _ranked(record: TokenLogprob) -> dict[int, dict[str, Any]]:
    """Ranks count from 1; None for a sampled token that is not among the likeliest that were asked for."""
    listed = {
        item.token_id: {"logprob": item.logprob, "rank": rank, "decoded_token": item.text}
        for rank, item in enumerate(record.top, start=1)
    }
    own = {"logprob": record.logprob, "rank": None, "decoded_token": record.text}
    return {record.token_id: listed.get(record.token_id, own), **listed}


def _bytes_tensor(name: str, texts: list[str]) -> Any:
    return pb_utils.Tensor(name, np.array([text.encode() for text in texts], np.object_))


def error_response(fault: Fault) -> Any:
    """A response without tensors that fails its request.

    The text carries the whole fault; the code is for clients of other backends.
    """
    error = pb_utils.TritonError(fault.encode(), getattr(pb_utils.TritonError, _CODES[fault.code]))
    return pb_utils.InferenceResponse(output_tensors=[], error=error)
