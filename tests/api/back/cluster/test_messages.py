"""What the texts of Triton and of the engine mean."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from api.back.cluster.messages import head_request, read_answer, read_error, read_heads
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
from runtime.contract import Fault, FaultCode, Operation
from runtime.messages import Slot


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


def test_a_full_queue_says_when_to_come_back() -> None:
    error = read_error("queue_full [deadline_ms] after 7.5 s: it would be finished: too late")
    assert isinstance(error, Overloaded)
    assert (error.retry_after, error.detail) == (7.5, "it would be finished: too late")


@pytest.mark.parametrize("field", [None, "stop.0"])
@pytest.mark.parametrize("seconds", [None, 0.0, 12.5])
def test_a_fault_comes_back_as_it_was_written(field: str | None, seconds: float | None) -> None:
    fault = Fault(FaultCode.QUEUE_FULL, "full after 3.0 s: [so] it is", field, seconds)
    assert Fault.decode(fault.encode()) == fault


def test_a_long_foreign_text_is_cut() -> None:
    assert len(read_error("x" * 10_000).detail) < 600


@pytest.mark.parametrize("details", [{}, {"choices": 1}, {"choices": [{}], "usage": None}, [], None])
def test_details_of_another_shape_are_the_servers_fault(details: Any) -> None:
    with pytest.raises(ServerFault, match="cannot be read"):
        read_answer(Operation.GENERATE, details)


def test_a_request_to_a_head_has_a_row_for_each_text() -> None:
    request = head_request("m", 1, ["é", ""], ["b", "cc"], "request-1")
    assert request.id == "request-1"  # in the log of the server
    assert [(each.name, list(each.shape)) for each in request.inputs] == [
        ("text", [2, 1]),
        ("text_pair", [2, 1]),
    ]
    assert list(request.raw_input_contents) == [
        b"\2\0\0\0\xc3\xa9\0\0\0\0",
        b"\1\0\0\0b\2\0\0\0cc",
    ]
    assert [each.name for each in head_request("m", 1, ["a"], None).inputs] == ["text"]
    hot = head_request("m", 1, ["a", "b"], None, temperature=1.5)
    assert [(each.name, each.datatype, list(each.shape)) for each in hot.inputs[1:]] == [
        ("temperature", "FP32", [2, 1])
    ]
    assert hot.raw_input_contents[1] == struct.pack("<2f", 1.5, 1.5)


@pytest.mark.parametrize("width", [0, 3])
@pytest.mark.parametrize("tagged", [False, True])
def test_a_heads_answers_are_read_row_by_row(width: int, tagged: bool) -> None:
    slot = Slot("x", "cc", 1, 3, 0.5)
    named = json.dumps([slot.to_json()]).encode()
    scores, labels = [[row + 0.5] * width for row in range(2)], ["a", "bb"]
    contents = {
        "scores": struct.pack(f"<{2 * width}f", *scores[0], *scores[1]),
        "label": b"\1\0\0\0a\2\0\0\0bb",
        "slots": b"\2\0\0\0[]" + struct.pack("<I", len(named)) + named,
    }
    response = service_pb2.ModelInferResponse()
    for name in list(contents)[: 3 if tagged else 2]:
        response.outputs.add(name=name)
        response.raw_output_contents.append(contents[name])
    slots = [[], [slot]] if tagged else [None, None]
    assert read_heads(response) == [HeadAnswer(*each) for each in zip(scores, labels, slots, strict=True)]
