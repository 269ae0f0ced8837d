"""The façade's errors. Every layer raises these; `api/front/problems.py` alone turns them into HTTP.

ApiError
├── InvalidInput        a field of the request is wrong
├── NotFound            a model, version, deployment, task or route that is not there
├── Conflict            the state does not allow it
├── TooLarge            a body or an archive beyond its limit
├── Overloaded          no room now; come back after `retry_after` seconds
├── Unavailable         the model server cannot answer now; likewise
├── DeadlineExceeded    the caller's deadline passed first
├── Cancelled           the caller, or an operator, ended the task
└── ServerFault         a defect on our side
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.contract import Fault, FaultCode


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field: its path (`stop.0`), and a sentence with the value and the limit."""

    field: str
    message: str


class ApiError(Exception):
    """The base; `str(error)` is a sentence for the caller, `errors` says which fields are to blame."""

    errors: tuple[FieldError, ...] = ()

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidInput(ApiError):
    def __init__(self, errors: Sequence[FieldError], detail: str | None = None) -> None:
        super().__init__(detail or "; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = tuple(errors)

    @classmethod
    def of(cls, field: str, message: str) -> InvalidInput:
        return cls([FieldError(field, message)])


class NotFound(ApiError):
    """`field` is where the request named what is not there, if it did (`model`, `version`)."""

    def __init__(self, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        if field is not None:
            self.errors = (FieldError(field, detail),)


class Conflict(ApiError):
    pass


class TooLarge(ApiError):
    pass


class RetryLater(ApiError):
    """Base of the refusals that time cures. `retry_after` is in seconds."""

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Overloaded(RetryLater):
    pass


class Unavailable(RetryLater):
    pass


class DeadlineExceeded(ApiError):
    pass


class Cancelled(ApiError):
    pass


class ServerFault(ApiError):
    pass


def from_fault(fault: Fault) -> ApiError:
    """Translate what the engine said into the façade's own family."""
    match fault.code:
        case FaultCode.INVALID_ARGUMENT:
            return InvalidInput.of(fault.field or "request", fault.message)
        case FaultCode.QUEUE_FULL:
            return Overloaded(fault.message)
        case FaultCode.UNAVAILABLE:
            return Unavailable(fault.message)
        case FaultCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(fault.message)
        case FaultCode.CANCELLED:
            return Cancelled(fault.message)
        case FaultCode.INTERNAL:
            return ServerFault(fault.message)
