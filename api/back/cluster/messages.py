"""Requests and answers of the KServe v2 protocol as Triton speaks it over gRPC, and what its errors mean.

The generated messages are used directly: the client library would pass every token through numpy.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from api.back.cluster.records import HeadAnswer
from api.errors import ApiError, DeadlineExceeded, Overloaded, ServerFault, Unavailable, from_fault
from runtime.commands import SESSION
from runtime.contract import Fault, HeadTensors, LmTensors, Operation
from runtime.messages import Answer, Slot, answer_from_json

RETRY_SECONDS = 2.0  # about what healing takes
REQUEST_ID = re.compile(r"^\[request id: [^\]]*\] ")  # Triton puts it before some texts
# What Triton says where the model, or the process that runs it, is not there: it may be back soon.
ABSENT = re.compile(
    r"not healthy|Stub process|not at ready state|is not found|unknown model|unloading|shutting down"
)
# What it says to a new request where the model, or the server, ends: those before it are answered.
ENDING = re.compile(r"not at ready state|unloading|exiting|shutting down")
# load failed for model 'm': version 1 is at UNAVAILABLE state: Internal: why\n\nAt:\n  file(1): function\n;
REFUSED = re.compile(
    r"(load failed for model|failed to load) '[^']*'[:,] (version \d+ is at UNAVAILABLE state: )?"
    r"(Internal: )?(?P<reason>.*?)(\n\nAt:\n|;?\s*$)",
    re.DOTALL,
)
DIED = re.compile(r"[Ss]tub process|health mutex")  # what Triton says where the process ended as it loaded
NOT_SENT = "Internal error from Core"  # what grpc.aio says where a stream ended before a message was written
MAX_ERROR = 500  # characters of a foreign error that are passed on


def head_request(
    model: str,
    version: int,
    texts: Sequence[str],
    text_pairs: Sequence[str] | None,
    log_id: str = "",
    temperature: float | None = None,
    special_tokens: bool = True,
) -> Any:
    """A request to a batched model: each input has the shape [texts, 1]. Its log lines name `log_id`."""
    request = service_pb2.ModelInferRequest(model_name=model, model_version=str(version), id=log_id)
    for name, column in ((HeadTensors.TEXT, texts), (HeadTensors.TEXT_PAIR, text_pairs)):
        if column is not None:
            _add_texts(request, name, [text.encode() for text in column], [len(column), 1])
    if temperature is not None:
        request.inputs.add(name=HeadTensors.TEMPERATURE, datatype="FP32", shape=[len(texts), 1])
        request.raw_input_contents.append(struct.pack("<f", temperature) * len(texts))
    if not special_tokens:
        request.inputs.add(name=HeadTensors.SPECIAL_TOKENS, datatype="BOOL", shape=[len(texts), 1])
        request.raw_input_contents.append(bytes(len(texts)))
    return request


def session_request(model: str, version: int, session: str, commands: bytes = b"", name: str = "") -> Any:
    """A request that opens a session, and ends with it, or one that brings commands for an open session.

    Where Triton refuses it, the response has its `name`.
    """
    request = service_pb2.ModelInferRequest(model_name=model, model_version=str(version), id=name)
    _add_texts(request, LmTensors.TEXT_INPUT, [commands], [1])
    request.outputs.add(name=LmTensors.DETAILS)
    request.parameters[SESSION].string_param = session
    request.parameters["triton_enable_empty_final_response"].bool_param = not commands
    return request


def read_session_messages(response: Any) -> list[tuple[int, dict[str, Any] | ApiError]] | None:
    """The key and the message of each: the `details` of an answer, or why the request failed.

    None where the response is the empty one that ends a session.
    """
    content = _outputs(response).get(LmTensors.DETAILS)
    if content is None:
        return None
    messages = json.loads(_texts(content)[0])
    return [(key, read_error(message) if isinstance(message, str) else message) for key, message in messages]


def read_answer(operation: Operation, details: Mapping[str, Any]) -> Answer:
    """The answer, or a piece of one, that `details` holds. Raises ServerFault."""
    try:
        return answer_from_json(operation, details)
    except (KeyError, TypeError, ValueError) as error:
        raise ServerFault(f"the model server sent an answer that cannot be read: {error!r}") from error


def read_heads(response: Any) -> list[HeadAnswer]:
    """One answer for each row of the request."""
    outputs = _outputs(response)
    labels = [label.decode() for label in _texts(outputs[HeadTensors.LABEL])]
    scores = outputs[HeadTensors.SCORES]
    values = struct.unpack(f"<{len(scores) // 4}f", scores)
    width = len(values) // len(labels)
    slots: Sequence[list[Slot] | None] = [None] * len(labels)
    if (tagged := outputs.get(HeadTensors.SLOTS)) is not None:
        slots = [[Slot.from_json(slot) for slot in json.loads(text)] for text in _texts(tagged)]
    return [
        HeadAnswer(list(values[row * width : (row + 1) * width]), label, found)
        for row, (label, found) in enumerate(zip(labels, slots, strict=True))
    ]


def read_load_error(error: grpc.aio.AioRpcError) -> ApiError:
    """Why a model does not load; the backend's traceback, which Triton appends, stays in the log."""
    refusal = REFUSED.search(error.details() or "")
    if refusal is None:
        return read_rpc_error(error)
    if DIED.search(refusal["reason"]):
        return Unavailable(
            "its process ended, or had no processor for a second, while it loaded", RETRY_SECONDS
        )
    return ServerFault(refusal["reason"][:MAX_ERROR])


def read_error(text: str) -> ApiError:
    """What an error's text means: a fault of the engine, or Triton's own words."""
    text = REQUEST_ID.sub("", text)
    fault = Fault.decode(text)
    if fault is not None:
        return from_fault(fault)
    if ABSENT.search(text):
        return Unavailable("the model is not running at the moment", RETRY_SECONDS)
    return ServerFault(f"the model server failed: {text[:MAX_ERROR]}")


def read_rpc_error(error: grpc.aio.AioRpcError) -> ApiError:
    """What the failure of a whole call means."""
    text = error.details() or ""
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded("the model server did not answer in time")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded("the model server has no room", RETRY_SECONDS)
    found = read_error(text)
    gone = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    if isinstance(found, ServerFault) and (gone or NOT_SENT in text):
        return Unavailable("the connection to the model server was lost", RETRY_SECONDS)
    return found


def _add_texts(request: Any, name: str, texts: Sequence[bytes], shape: list[int]) -> None:
    """The elements of a BYTES tensor, as `_texts` reads them."""
    request.inputs.add(name=name, datatype="BYTES", shape=shape)
    request.raw_input_contents.append(
        b"".join(part for text in texts for part in (struct.pack("<I", len(text)), text))
    )


def _outputs(response: Any) -> dict[str, bytes]:
    return dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=True))


def _texts(content: bytes) -> list[bytes]:
    """The elements of a BYTES tensor: each has its length in front, 4 bytes, little-endian."""
    texts = []
    position = 0
    while position < len(content):
        (size,) = struct.unpack_from("<I", content, position)
        texts.append(content[position + 4 : position + 4 + size])
        position += 4 + size
    return texts
