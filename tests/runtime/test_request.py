from __future__ import annotations

from typing import Any

import pytest

from runtime.contract import Operation
from runtime.errors import RequestFault
from runtime.request import parse_request


@pytest.mark.parametrize(
    ("operation", "data", "field"),
    [
        (Operation.GENERATE, {"max_tokens": -1}, "max_tokens"),
        (Operation.GENERATE, {"continuations": ["a"]}, "continuations"),
        (Operation.SCORE, {}, "continuations"),
        (Operation.SCORE, {"continuations": []}, "continuations"),
        (Operation.SCORE, {"continuations": "a"}, "continuations"),
        (Operation.SCORE, {"continuations": ["a", 1]}, "continuations"),
        (Operation.SCORE, {"continuations": ["a", ""]}, "continuations"),
        (Operation.SCORE, {"continuations": ["a"], "temperature": 1}, "sampling_parameters"),
        (Operation.NEXT, {"top_k": 0}, "top_k"),
        (Operation.NEXT, {"top_k": 1001}, "top_k"),
        (Operation.NEXT, {"top_k": "many"}, "top_k"),
        (Operation.EMBED, {"deadline_ms": 0}, "deadline_ms"),
        (Operation.NEXT, {"priority": 101}, "priority"),
        (Operation.SCORE, {"continuations": ["a"], "caller": 1}, "caller"),
    ],
)
def test_the_field_at_fault_is_named(operation: Operation, data: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestFault) as raised:
        parse_request("1", "text", operation, data, stream=False)
    assert raised.value.fault.field == field


def test_only_generation_streams() -> None:
    with pytest.raises(RequestFault, match="stream"):
        parse_request("1", "text", Operation.EMBED, {}, stream=True)


def test_numbers_may_come_as_text() -> None:
    assert parse_request("1", "text", Operation.NEXT, {"top_k": "3"}, stream=False).num_candidates == 3


@pytest.mark.parametrize("operation", list(Operation))
def test_every_operation_has_its_turn_in_the_queue(operation: Operation) -> None:
    data: dict[str, Any] = {"continuations": ["a"]} if operation is Operation.SCORE else {}
    turn = {"priority": "-3", "caller": "me", "deadline_ms": 5}
    parsed = parse_request("1", "text", operation, {**data, **turn}, stream=False).parameters
    assert (parsed.priority, parsed.caller, parsed.deadline_ms) == (-3, "me", 5)


def test_the_deadline_counts_from_arrival() -> None:
    request = parse_request("1", "text", Operation.GENERATE, {"deadline_ms": 1500}, stream=False)
    assert request.deadline == request.arrived + 1.5


def test_a_model_sets_what_a_request_to_generate_does_not() -> None:
    defaults = {"top_k": 5.0, "temperature": 0.5, "repetition_penalty": 1.5}
    asked = {"temperature": 0, "top_k": None}
    parsed = parse_request("1", "text", Operation.GENERATE, asked, stream=False, defaults=defaults)
    found = parsed.parameters
    assert (found.temperature, found.top_k, found.repetition_penalty) == (0.0, 5, 1.5)
    embedded = parse_request("1", "text", Operation.EMBED, {}, stream=False, defaults=defaults)
    assert embedded.parameters.top_k == 0
