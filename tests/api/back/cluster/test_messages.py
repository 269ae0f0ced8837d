"""What the texts of Triton and of the engine mean."""

from __future__ import annotations

import pytest

from api.back.cluster.messages import read_error
from api.errors import (
    ApiError,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    ServerFault,
    Unavailable,
)


@pytest.mark.parametrize(
    ("text", "kind", "detail"),
    [
        ("invalid_argument [max_tokens]: -1 is out of range", InvalidInput, "max_tokens: -1 is out of range"),
        ("[request id: <id_unknown>] queue_full: 256 wait", Overloaded, "256 wait"),
        ("deadline_exceeded: after 10 ms", DeadlineExceeded, "after 10 ms"),
        ("cancelled: by the caller", Cancelled, "by the caller"),
        ("unavailable: draining", Unavailable, "draining"),
        ("internal: defect", ServerFault, "defect"),
        ("Stub process 'm_0' is not healthy.", Unavailable, "not running"),
        ("Request for unknown model: 'm' version 1 is not at ready state", Unavailable, "not running"),
        ("[request id: 7] something else: entirely", ServerFault, "failed: something else: entirely"),
        ("", ServerFault, "failed"),
    ],
)
def test_a_text_becomes_an_error(text: str, kind: type[ApiError], detail: str) -> None:
    error = read_error(text)
    assert type(error) is kind
    assert detail in error.detail


def test_a_long_foreign_text_is_cut() -> None:
    assert len(read_error("x" * 10_000).detail) < 600
