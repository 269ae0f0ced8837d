"""Reads the tensors of a Triton request; a wrong one is a RequestFault that names the tensor."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import triton_python_backend_utils as pb_utils

from runtime.commands import MAX_LOG_ID, MAX_SESSION_NAME, SESSION, Command, Submit, decode
from runtime.contract import (
    MAX_PROMPT_TOKENS,
    LmTensors,
    Operation,
)
from runtime.errors import RequestFault
from runtime.request import Request, parse_request

# Parameters of a request that are none of sampling: Triton passes the `id` of its generate extension on.
NOT_SAMPLING = (SESSION, "id")


@dataclass(frozen=True, slots=True)
class RequestedOutputs:
    """What the responses of one `lm` request must hold."""

    names: frozenset[str]  # of output tensors
    prepend_input: bool


def read_lm(request: Any, request_id: str, defaults: Mapping[str, float]) -> tuple[Request, RequestedOutputs]:
    """Tensors of kind `lm`, with the defaults of Triton's vLLM backend (its `GenerateRequest`).

    `defaults` are the model's, of sampling parameters.
    """
    text, token_ids = _prompt(request)
    stream = bool(_value(request, LmTensors.STREAM))
    operation = _operation(_value(request, LmTensors.OPERATION))
    parsed = parse_request(
        request_id,
        text,
        operation,
        _parameters(request),
        stream=stream,
        token_ids=token_ids,
        defaults=defaults,
    )
    exclude = _value(request, LmTensors.EXCLUDE_INPUT_IN_OUTPUT)
    if exclude is not None and not exclude and stream:
        raise RequestFault.invalid(
            LmTensors.EXCLUDE_INPUT_IN_OUTPUT, "false is not allowed in a stream; ask for `echo` instead"
        )
    excluded = stream if exclude is None else bool(exclude)
    off = {
        switch.removeprefix("return_") for switch in LmTensors.SWITCHES if not bool(_value(request, switch))
    }
    names = frozenset(request.requested_output_names()) - off
    log_id = request.request_id()[:MAX_LOG_ID]
    parsed = dataclasses.replace(parsed, with_logprob="cumulative_logprob" in names, log_id=log_id)
    return parsed, RequestedOutputs(names, prepend_input=not excluded and not parsed.parameters.echo)


def read_session(request: Any) -> str | None:
    """The name of the session that the request opens or brings commands for. Raises RequestFault."""
    name = json.loads(request.parameters() or "{}").get(SESSION)
    if name is not None and not (isinstance(name, str) and 1 <= len(name) <= MAX_SESSION_NAME):
        raise RequestFault.invalid(SESSION, f"a string of 1 to {MAX_SESSION_NAME} characters is needed")
    return name


def read_commands(request: Any) -> list[tuple[int, Command]]:
    """None of a request that opens a session. Raises RequestFault."""
    text = decoded(require(_value(request, LmTensors.TEXT_INPUT), LmTensors.TEXT_INPUT), LmTensors.TEXT_INPUT)
    return decode(text) if text else []


def request_of(command: Submit, request_id: str, defaults: Mapping[str, float]) -> Request:
    """`defaults` are the model's, of sampling parameters. Raises RequestFault."""
    prompt = command.prompt
    text, token_ids = (prompt, None) if isinstance(prompt, str) else ("", tuple(prompt))
    parsed = parse_request(
        request_id,
        text,
        command.operation,
        command.parameters,
        stream=command.stream,
        token_ids=token_ids,
        defaults=defaults,
    )
    return dataclasses.replace(parsed, with_logprob=False, log_id=command.log_id)


def decoded(value: Any, name: str) -> str:
    """Text of a BYTES element."""
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise RequestFault.invalid(name, f"not UTF-8: byte 0x{byte:02x} at {error.start}") from None


def require(tensor: Any, name: str) -> Any:
    """The tensor. Triton checks only the number of inputs, so that a required one can be missing."""
    if tensor is None:
        raise RequestFault.invalid(name, "missing; this input is required")
    return tensor


def _prompt(request: Any) -> tuple[str, tuple[int, ...] | None]:
    """The text, or the token ids in place of it."""
    tensor = pb_utils.get_input_tensor_by_name(request, LmTensors.PROMPT_TOKEN_IDS)
    if tensor is None:
        text = require(_value(request, LmTensors.TEXT_INPUT), LmTensors.TEXT_INPUT)
        return decoded(text, LmTensors.TEXT_INPUT), None
    if _value(request, LmTensors.TEXT_INPUT):
        message = f"must be empty beside {LmTensors.PROMPT_TOKEN_IDS}, which is the prompt"
        raise RequestFault.invalid(LmTensors.TEXT_INPUT, message)
    ids = tensor.as_numpy()
    if ids.size > MAX_PROMPT_TOKENS:
        message = f"{ids.size} token ids, but at most {MAX_PROMPT_TOKENS} are read"
        raise RequestFault.invalid(LmTensors.PROMPT_TOKEN_IDS, message)
    return "", tuple(ids.tolist())


def _value(request: Any, name: str) -> Any:
    """The only element of a tensor of shape [1]; None where an optional tensor was not sent."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()[0]


def _operation(value: Any) -> Operation:
    if value is None:
        return Operation.GENERATE
    name = decoded(value, LmTensors.OPERATION)
    if name not in [operation.value for operation in Operation]:
        choices = ", ".join(operation.value for operation in Operation)
        raise RequestFault.invalid(LmTensors.OPERATION, f"{name[:80]!r} is not one of {choices}")
    return Operation(name)


def _parameters(request: Any) -> dict[str, Any]:
    """The tensor, or else the request's own parameters, which HTTP clients of `generate` use."""
    value = _value(request, LmTensors.SAMPLING_PARAMETERS)
    text = request.parameters() if value is None else decoded(value, LmTensors.SAMPLING_PARAMETERS)
    try:
        parameters = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise RequestFault.invalid(LmTensors.SAMPLING_PARAMETERS, f"not JSON: {error}") from None
    if not isinstance(parameters, dict):
        raise RequestFault.invalid(LmTensors.SAMPLING_PARAMETERS, "a JSON object is needed")
    if value is None:
        parameters = {name: parameters[name] for name in parameters if name not in NOT_SAMPLING}
    return parameters
