"""Sessions: a client has the answers of many requests to a model of kind `lm` sent over one gRPC stream.

A request with the parameter `SESSION` and an empty `text_input` opens a session under a name that the client
chooses. It stays open until the client cancels it. Its responses hold, as `details`, a JSON array of
`[key, message]`. A message is the `details` of one answer, or a Fault as `encode` writes it. The last message
with a key has `usage`, or is a Fault.

A request with the parameter `SESSION` and another `text_input` brings commands, as `join` writes them. Triton
answers it at once with an empty final response. Where it answers with an error, it carried out none of them.

When a session ends, the requests that are under way in it are aborted. Standard library only: the façade
imports this module, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from runtime import strict_json
from runtime.contract import LmTensors, Operation
from runtime.errors import RequestFault

SESSION = "session"  # a string of 1 to MAX_SESSION_NAME characters
MAX_SESSION_NAME = 64
MAX_LOG_ID = 128  # characters


@dataclass(frozen=True, slots=True)
class Submit:
    """The tensors of the same names say what the fields mean."""

    prompt: str | Sequence[int]  # a text, or token ids
    operation: Operation
    parameters: Mapping[str, Any]
    stream: bool
    log_id: str = ""  # of the caller's request; the engine's log lines about it have it


_MEMBERS = tuple(field.name for field in fields(Submit))
Command = Submit | None  # None cancels the request with that key


def encode(key: int, command: Command) -> bytes:
    """`key` is of the client's choice; no other request under way in the session has it.

    Raises ValueError where the command holds what UTF-8 or JSON cannot.
    """
    content = None
    if command is not None:
        content = {name: getattr(command, name) for name in _MEMBERS}
    return json.dumps([key, content], ensure_ascii=False, allow_nan=False).encode()


def join(commands: Iterable[bytes]) -> bytes:
    """The `text_input` of one request."""
    return b"[" + b",".join(commands) + b"]"


def decode(text: str) -> list[tuple[int, Command]]:
    """The commands that `join` wrote. Raises RequestFault."""
    try:
        commands = strict_json.parse(text)
    except (ValueError, RecursionError) as error:
        raise _refused(f"not JSON: {error}") from None
    if not isinstance(commands, list):
        raise _refused("a JSON array of commands is needed")
    return [_decode_one(command) for command in commands]


def _decode_one(value: Any) -> tuple[int, Command]:
    match value:
        case [int(key), None]:
            return key, None
        case [
            int(key),
            {
                "prompt": str() | list() as prompt,
                "operation": str(operation),
                "parameters": dict(parameters),
                "stream": bool(stream),
                "log_id": str(log_id),
            } as members,
        ] if len(members) == len(_MEMBERS) and (
            isinstance(prompt, str) or all(type(token) is int for token in prompt)
        ):
            if operation in Operation._value2member_map_:
                return key, Submit(prompt, Operation(operation), parameters, stream, log_id[:MAX_LOG_ID])
    raise _refused(f"{str(value)[:80]!r} is no command")


def _refused(message: str) -> RequestFault:
    return RequestFault.invalid(LmTensors.TEXT_INPUT, message)
