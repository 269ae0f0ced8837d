"""Answers that follow a grammar, from the engine."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from runtime.contract import FaultCode, FinishReason
from runtime.engine import Engine
from runtime.errors import RequestFault
from tests.runtime.conftest import OpenEngine
from tests.runtime.engines import ask, submit

CHOICES = ["the cat", "a dog", "rain"]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "y"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["a", "n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1, 50])
def test_the_answer_is_one_of_the_choices(engine: Engine, temperature: float) -> None:
    found = ask(engine, "it rains", guided_choice=CHOICES, temperature=temperature, seed=1, max_tokens=20)
    (choice,) = found["choices"]
    assert choice["text"] in CHOICES
    assert choice["finish_reason"] == FinishReason.STOP.value


def test_a_json_schema_is_followed_with_all_that_changes_a_draw(engine: Engine) -> None:
    parameters: dict[str, Any] = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        "n": 4,
        "seed": 7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.01,
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.5,
        "logit_bias": {"5": 20},
        "logprobs": 2,
        "min_tokens": 3,
        "max_tokens": 60,
    }
    first = submit(engine, "the cat", parameters, stream=True).wait()
    second = submit(engine, "the cat", parameters).wait()
    for index in range(4):
        found = json.loads(first.text(index))
        assert found["a"] in ("x", "y")
        assert 0 <= found["n"] <= 99
        assert first.text(index) == second.text(index)


def test_a_text_that_is_cut_short_says_so(engine: Engine) -> None:
    (choice,) = ask(engine, "the", guided_regex="[ab]{30,}", max_tokens=4)["choices"]
    assert re.fullmatch("[ab]+", choice["text"])
    assert choice["finish_reason"] == FinishReason.LENGTH.value


def test_logprobs_are_those_of_the_model(engine: Engine) -> None:
    (choice,) = ask(engine, "the cat", guided_choice=["rain"], logprobs=0, max_tokens=9)["choices"]
    texts = [record["text"] for record in choice["logprobs"]][:-1]
    (scored,) = ask(engine, "the cat", logprobs=0, max_tokens=0, echo=True)["choices"]
    assert "".join(texts) == "rain"
    assert all(record["logprob"] < 0 for record in choice["logprobs"])
    assert scored["text"] == "the cat"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"guided_regex": "("}, "guided_regex"),
        ({"structured_outputs": {"json": {"type": "array", "uniqueItems": True}}}, "structured_outputs"),
    ],
)
def test_a_grammar_that_does_not_compile_is_named(engine: Engine, data: dict[str, Any], field: str) -> None:
    fault = submit(engine, "the", data).wait().fault
    assert fault is not None
    assert (fault.code, fault.field) == (FaultCode.INVALID_ARGUMENT, field)


def test_the_end_of_the_text_belongs_to_the_grammar(engine: Engine) -> None:
    with pytest.raises(RequestFault, match=r"\[ignore_eos\]"):
        submit(engine, "the", {"guided_choice": ["a"], "ignore_eos": True})


def test_who_is_cancelled_while_a_grammar_is_compiled_gets_one_end(open_engine: OpenEngine) -> None:
    """The server of masks starts with the first request: the others are cancelled while it does."""
    engine = open_engine()
    sinks = [submit(engine, "the", {"guided_regex": "a+"}, request_id=str(number)) for number in range(4)]
    for number in (1, 2):
        engine.abort(str(number))
    faults = [sink.wait().fault for sink in sinks]
    assert [fault and fault.code for fault in faults] == [
        None,
        FaultCode.CANCELLED,
        FaultCode.CANCELLED,
        None,
    ]
    assert [sink.ends for sink in sinks] == [1] * 4
    engine.check_integrity()


def test_more_requests_than_may_have_a_process_wait(open_engine: OpenEngine) -> None:
    engine = open_engine(num_slots=1)
    asked = {"guided_regex": "a{1,3}", "n": 2}
    sinks = [submit(engine, "the", asked) for _ in range(7)]
    assert all(re.fullmatch("a{1,3}", sink.wait().text(index)) for sink in sinks for index in range(2))


def test_closing_answers_requests_whose_grammar_is_compiled(open_engine: OpenEngine) -> None:
    engine = open_engine()
    sinks = [submit(engine, "the", {"guided_regex": "a+"}) for _ in range(3)]
    engine.close()
    assert all(sink.ends == 1 for sink in sinks)
