"""What a line of a batch is. The front layer reads and writes lines: their bodies are those of its routes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from api.errors import ApiError
from api.middle.chat import Chat
from api.middle.schemas.base import TaskParameters


@dataclass(frozen=True, slots=True)
class BatchLine:
    custom_id: str
    body: Any  # parsed JSON, not yet validated


@dataclass(frozen=True, slots=True)
class LineTask:
    """What a line asks for, and `shape`, which makes the body of the answer."""

    type: str
    parameters: TaskParameters
    shape: Callable[[BaseModel], dict[str, Any]]
    model: str | None  # as the line names it
    prompt_field: str = "prompt"  # that errors about the prompt name


class LineError(Exception):
    """Why the batch of this line is refused; `str(error)` is a sentence for the caller."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class LineFormat(Protocol):
    """Every line gets the validation, and the answer, of a single request to `endpoint`."""

    def read(self, raw: bytes, endpoint: str) -> BatchLine:
        """Raises LineError."""

    async def task(self, endpoint: str, body: Any, chat: Chat) -> LineTask:
        """`chat` makes the prompt of a conversation. Raises InvalidInput."""

    def refusal(self, endpoint: str, error: ApiError, request_id: str) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer for an error."""


def answered_line(request_id: str, custom_id: str, status: int, body: dict[str, Any]) -> str:
    """A line of the output file, or of the error file where the status is an error's."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return _line(request_id, custom_id, response, None)


def failed_line(request_id: str, custom_id: str, code: str, message: str) -> str:
    """A line of the error file for a request that got no answer."""
    return _line(request_id, custom_id, None, {"code": code, "message": message})


def _line(request_id: str, custom_id: str, response: Any, error: Any) -> str:
    line = {"id": f"batch_req_{request_id}", "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))
