"""What the texts of Triton and of the engine mean."""

from __future__ import annotations

import struct

import pytest
from tritonclient.grpc import service_pb2

from api.back.cluster.messages import head_request, read_error, read_heads
from api.back.cluster.records import HeadAnswer
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


def test_a_request_to_a_head_has_a_row_for_each_text() -> None:
    request = head_request("m", 1, ["é", ""], ["b", "cc"])
    assert [(each.name, list(each.shape)) for each in request.inputs] == [
        ("text", [2, 1]),
        ("text_pair", [2, 1]),
    ]
    assert list(request.raw_input_contents) == [
        b"\2\0\0\0\xc3\xa9\0\0\0\0",
        b"\1\0\0\0b\2\0\0\0cc",
    ]
    assert [each.name for each in head_request("m", 1, ["a"], None).inputs] == ["text"]


@pytest.mark.parametrize("width", [0, 3])
@pytest.mark.parametrize("tagged", [False, True])
def test_a_heads_answers_are_read_row_by_row(width: int, tagged: bool) -> None:
    scores, labels = [[row + 0.5] * width for row in range(2)], ["a", "bb"]
    contents = {
        "scores": struct.pack(f"<{2 * width}f", *scores[0], *scores[1]),
        "label": b"\1\0\0\0a\2\0\0\0bb",
        "slots": b'\2\0\0\0[]\x0d\0\0\0[{"start":1}]',
    }
    response = service_pb2.ModelInferResponse()
    for name in list(contents)[: 3 if tagged else 2]:
        response.outputs.add(name=name)
        response.raw_output_contents.append(contents[name])
    slots = [[], [{"start": 1}]] if tagged else [None, None]
    assert read_heads(response) == [HeadAnswer(*each) for each in zip(scores, labels, slots, strict=True)]
