"""What the engine raises.

RequestFault    one request fails; carries the `Fault` that travels to the caller
ModelError      a version folder that cannot be served: nothing is loaded
IntegrityError  an invariant of the engine is violated: a defect
"""

from __future__ import annotations

from runtime.contract import Fault, FaultCode


class RequestFault(Exception):
    """One request cannot be answered; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.encode())
        self.fault = fault

    @classmethod
    def invalid(cls, field: str, message: str) -> RequestFault:
        """The caller's `field` is wrong."""
        return cls(Fault(FaultCode.INVALID_ARGUMENT, message, field))

    @classmethod
    def too_long(cls, field: str, message: str) -> RequestFault:
        """The caller's `field` asks for more tokens than the context holds."""
        return cls(Fault(FaultCode.CONTEXT_LENGTH, message, field))

    @classmethod
    def of(cls, code: FaultCode, message: str, retry_after: float | None = None) -> RequestFault:
        """No single field is wrong; `retry_after` is in seconds."""
        return cls(Fault(code, message, retry_after=retry_after))


class ModelError(Exception):
    """A version folder is incomplete or wrong, or its model does not reproduce its golden prompts."""


class IntegrityError(Exception):
    """Slots, sequences and states contradict each other; a defect of the engine, never of a request."""
