"""The façade's errors. Every layer raises these; `api/front/problems.py` alone turns them into HTTP.

Each has a `slug`, its name outside of this process: in problem documents, and in the records of failed tasks.
A class may be renamed, a slug may not.

ApiError
├── InvalidInput        a field of the request is wrong
│   └── ContextExceeded it asks for more tokens than the model's context holds
├── Unauthorized        an API key is needed, and none that is valid was sent
├── Forbidden           the caller lacks the scope
├── NotFound            a model, version, deployment, task or route that is not there
├── Conflict            the state does not allow it
├── TooLarge            a body or an archive beyond its limit
├── Overloaded          no room now; come back after `retry_after` seconds
├── RateLimited         the caller's own limit is reached; likewise
├── Unavailable         the model server cannot answer now; likewise
├── StoreUnavailable    the database or the blob store cannot be used now; likewise
│   └── StoreFull       its disk is full
├── DeadlineExceeded    the caller's deadline passed first
├── Cancelled           the caller, or an operator, ended the task
├── Unsupported         this server is installed, or set, without what the request needs
└── ServerFault         a defect on our side
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from runtime.contract import Fault, FaultCode


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field: its path (`stop.0`), and a sentence with the value and the limit."""

    field: str
    message: str


class ApiError(Exception):
    """The base; `str(error)` is a sentence for the caller, `errors` names the fields that are wrong."""

    slug: ClassVar[str]
    errors: tuple[FieldError, ...] = ()

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidInput(ApiError):
    slug = "invalid-input"

    def __init__(self, errors: Sequence[FieldError], detail: str | None = None) -> None:
        super().__init__(detail or "; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = tuple(errors)

    @classmethod
    def of(cls, field: str, message: str) -> InvalidInput:
        return cls([FieldError(field, message)])


class ContextExceeded(InvalidInput):
    slug = "context-exceeded"


class Unauthorized(ApiError):
    slug = "unauthorized"


class Forbidden(ApiError):
    slug = "forbidden"


class NotFound(ApiError):
    """`field` is where the request named what is not there, if it did (`model`, `version`)."""

    slug = "not-found"

    def __init__(self, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        if field is not None:
            self.errors = (FieldError(field, detail),)


class Conflict(ApiError):
    slug = "conflict"


class TooLarge(ApiError):
    slug = "too-large"


class RetryLater(ApiError):
    """Base of the refusals that time cures. `retry_after` is in seconds."""

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Overloaded(RetryLater):
    """`reason` names in one word what is full: metrics count refusals by it."""

    slug = "overloaded"

    def __init__(self, detail: str, retry_after: float = 1.0, *, reason: str = slug) -> None:
        super().__init__(detail, retry_after)
        self.reason = reason


class RateLimited(RetryLater):
    slug = "rate-limited"


class Unavailable(RetryLater):
    slug = "unavailable"


class StoreUnavailable(RetryLater):
    """Raised by api/back/store alone; what needs no record goes on meanwhile."""

    slug = "store-unavailable"

    def __init__(self, detail: str, retry_after: float = 2.0) -> None:
        super().__init__(detail, retry_after)


class StoreFull(StoreUnavailable):
    slug = "store-full"


class DeadlineExceeded(ApiError):
    slug = "deadline"


class Cancelled(ApiError):
    slug = "cancelled"


class Unsupported(ApiError):
    slug = "unsupported"


class ServerFault(ApiError):
    slug = "server-fault"


def from_fault(fault: Fault) -> ApiError:
    """Translate what the engine said into the façade's own family."""
    match fault.code:
        case FaultCode.INVALID_ARGUMENT:
            return InvalidInput.of(fault.field or "request", fault.message)
        case FaultCode.CONTEXT_LENGTH:
            return ContextExceeded.of(fault.field or "request", fault.message)
        case FaultCode.QUEUE_FULL:
            return Overloaded(fault.message, fault.retry_after or 1.0, reason="engine-queue")
        case FaultCode.UNAVAILABLE:
            return Unavailable(fault.message)
        case FaultCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(fault.message)
        case FaultCode.CANCELLED:
            return Cancelled(fault.message)
        case FaultCode.INTERNAL:
            return ServerFault(fault.message)
