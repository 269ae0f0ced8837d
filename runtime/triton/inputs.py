"""Reading tensors of a Triton request; what is wrong is a RequestFault that names the tensor."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import triton_python_backend_utils as pb_utils

from runtime.contract import MAX_RELAY_NAME, LmTensors, Operation, RelayParameters
from runtime.errors import RequestFault
from runtime.request import Request, parse_request


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the responses of one `lm` request are to hold."""

    outputs: frozenset[str]
    prepend_input: bool


def read_lm(request: Any, request_id: str) -> tuple[Request, Wishes]:
    """Tensors of kind `lm`, with the defaults of Triton's vLLM backend (its `GenerateRequest`)."""
    text = decoded(_value(request, LmTensors.TEXT_INPUT), LmTensors.TEXT_INPUT)
    stream = bool(_value(request, LmTensors.STREAM))
    operation = _operation(_value(request, LmTensors.OPERATION))
    parsed = parse_request(request_id, text, operation, _parameters(request), stream=stream)
    exclude = _value(request, LmTensors.EXCLUDE_INPUT_IN_OUTPUT)
    if exclude is not None and not exclude and stream:
        raise RequestFault.invalid(
            LmTensors.EXCLUDE_INPUT_IN_OUTPUT, "false is not allowed in a stream; ask for `echo` instead"
        )
    excluded = stream if exclude is None else bool(exclude)
    off = {
        switch.removeprefix("return_") for switch in LmTensors.SWITCHES if not bool(_value(request, switch))
    }
    outputs = frozenset(request.requested_output_names()) - off
    parsed = dataclasses.replace(parsed, with_logprob="cumulative_logprob" in outputs)
    return parsed, Wishes(outputs, prepend_input=not excluded and not parsed.parameters.echo)


@dataclass(frozen=True, slots=True)
class RelayWish:
    """A relay to open, or with `key` one that the responses of a request are to go to."""

    name: str
    key: int | None


def read_relay(request: Any) -> RelayWish | None:
    """The request's own parameters of `RelayParameters`; raises RequestFault."""
    parameters = json.loads(request.parameters() or "{}")
    name, key = parameters.get(RelayParameters.RELAY), parameters.get(RelayParameters.KEY)
    if name is None:
        return None
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_RELAY_NAME:
        limits = f"a string of 1 to {MAX_RELAY_NAME} characters is needed"
        raise RequestFault.invalid(RelayParameters.RELAY, limits)
    if key is not None and type(key) is not int:
        raise RequestFault.invalid(RelayParameters.KEY, "an integer is needed")
    return RelayWish(name, key)


def decoded(value: Any, name: str) -> str:
    """Text of a BYTES element."""
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise RequestFault.invalid(name, f"not UTF-8: byte 0x{byte:02x} at {error.start}") from None


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
        parameters = {name: parameters[name] for name in parameters if name not in RelayParameters.NAMES}
    return parameters
