"""Faults as Triton's errors: the text carries the whole fault, the code is for clients of other backends."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from runtime.contract import Fault, FaultCode

_CODES = {
    FaultCode.INVALID_ARGUMENT: "INVALID_ARG",
    FaultCode.QUEUE_FULL: "UNAVAILABLE",
    FaultCode.DEADLINE_EXCEEDED: "CANCELLED",
    FaultCode.CANCELLED: "CANCELLED",
    FaultCode.UNAVAILABLE: "UNAVAILABLE",
    FaultCode.INTERNAL: "INTERNAL",
}


def error_response(fault: Fault) -> Any:
    """A response without tensors that fails its request."""
    error = pb_utils.TritonError(fault.encode(), getattr(pb_utils.TritonError, _CODES[fault.code]))
    return pb_utils.InferenceResponse(output_tensors=[], error=error)
