"""The façade's schemas and the engine's reader take the same parameters: one range and one default each."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from api.front.schemas.openai import CompletionRequest
from api.middle.schemas.generate import GenerateParameters, NextParameters
from runtime.contract import Operation
from runtime.errors import RequestFault
from runtime.grammar import FORMS
from runtime.parameters import GENERATION_PARAMETERS, NUM_CANDIDATES, PARAMETERS, SHARED_PARAMETERS
from runtime.request import parse_request
from runtime.sampling import SamplingParameters, parse_sampling_parameters

NUMBERS = [name for name, parameter in PARAMETERS.items() if parameter.limits]
# OpenAI's documentation sets these limits for its own routes.
OPENAI_LIMITS = {"temperature": (0, 2), "seed": (-(2**63), 2**63 - 1)}
GRAMMARS: dict[str, Any] = {
    "response_format": {"type": "json_object"},
    "structured_outputs": {"regex": "a+"},
    "guided_json": {"type": "object"},
    "guided_regex": "a+",
    "guided_choice": ["a", "b"],
    "guided_grammar": 'start: "a"',
}
STOPS = ["a", "a" * 256, "a" * 257, ["a"] * 16, ["a"] * 17, ["a", ""], [], [1]]


def edges(low: float, high: float, *, whole: bool) -> list[float]:
    step = 1 if whole else 1e-6
    return [low - step, low, low + step, high - step, high, high + step]


def request(name: str, value: Any) -> dict[str, Any]:
    """With `echo`, so that `max_tokens` may be 0."""
    return {"prompt": "a", "echo": True, name: value}


def schema_takes(schema: type[Any], name: str, value: Any) -> bool:
    """Whether it does; an error about another field is raised."""
    try:
        schema(**request(name, value))
    except ValidationError as error:
        if {item["loc"][0] for item in error.errors()} != {name}:
            raise
        return False
    return True


def engine_takes(name: str, value: Any) -> bool:
    try:
        parse_sampling_parameters({"echo": True, name: value})
    except RequestFault as error:
        if error.fault.field != name:
            raise
        return False
    return True


@pytest.mark.parametrize("name", NUMBERS)
def test_one_range_for_task_and_engine(name: str) -> None:
    limits = PARAMETERS[name].range
    answers = set()
    for value in edges(limits.low, limits.high, whole=PARAMETERS[name].type is int):
        answers.add(taken := engine_takes(name, value))
        assert schema_takes(GenerateParameters, name, value) is taken, value
    assert answers == {True, False}


@pytest.mark.parametrize("name", [name for name in NUMBERS if name in CompletionRequest.model_fields])
def test_openai_s_range(name: str) -> None:
    limits = PARAMETERS[name].range
    low, high = OPENAI_LIMITS.get(name, (limits.low, limits.high))
    for value in edges(low, high, whole=PARAMETERS[name].type is int):
        expected = engine_takes(name, value) if name not in OPENAI_LIMITS else low <= value <= high
        assert schema_takes(CompletionRequest, name, value) is expected, value
        if expected:
            asked = CompletionRequest(**request(name, value))
            assert engine_takes(name, asked.parameters()[name])


@pytest.mark.parametrize("value", STOPS, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("schema", [GenerateParameters, CompletionRequest])
def test_stop_strings(schema: type[Any], value: object) -> None:
    assert schema_takes(schema, "stop", value) is engine_takes("stop", value)


def test_a_task_has_all_parameters_but_the_caller_which_the_facade_names() -> None:
    assert set(PARAMETERS) - set(GenerateParameters.model_fields) == {"caller"}


def test_defaults_are_those_of_the_engine() -> None:
    sent = GenerateParameters(prompt="a").sampling()
    assert parse_sampling_parameters(sent) == SamplingParameters()


def test_the_engine_gets_every_parameter_that_a_task_sets() -> None:
    given: dict[str, Any] = {
        "max_tokens": 2, "temperature": 0.5, "top_k": 3, "top_p": 0.25, "min_p": 0.125, "n": 2, "seed": 7,
        "repetition_penalty": 1.5, "presence_penalty": 1.0, "frequency_penalty": -1.0, "stop": ["x"],
        "logprobs": 1, "echo": True, "ignore_eos": True, "min_tokens": 1, "clamp_max_tokens": True,
        "best_of": 3, "logit_bias": {"5": 1.5}, "receipt": True,
    }  # fmt: skip
    assert set(given) == set(PARAMETERS) - set(SHARED_PARAMETERS)
    assert set(GENERATION_PARAMETERS) == {*given, *FORMS}
    assert GenerateParameters(prompt="a", **given).sampling() == given


@pytest.mark.parametrize("name", FORMS)
def test_the_engine_gets_a_grammar_in_each_form(name: str) -> None:
    asked = {name: GRAMMARS[name]}
    assert GenerateParameters(prompt="a", **asked).sampling() == asked


@pytest.mark.parametrize("value", [0, 1, 1000, 1001])
def test_one_range_of_candidates(value: int) -> None:
    parameters = {"top_k": value}
    if value in NUM_CANDIDATES.range:
        assert NextParameters(prompt="a", top_k=value).top_k == value
        parsed = parse_request("1", "a", Operation.NEXT, parameters, stream=False)
        assert parsed.num_candidates == value
    else:
        with pytest.raises(ValidationError):
            NextParameters(prompt="a", top_k=value)
        with pytest.raises(RequestFault):
            parse_request("1", "a", Operation.NEXT, parameters, stream=False)


def test_what_a_caller_leaves_out_is_left_to_the_model() -> None:
    assert GenerateParameters(prompt="a").sampling() == {}
    asked = GenerateParameters(prompt="a", temperature=1.0, seed=None, n=2)
    assert asked.sampling() == {"temperature": 1.0, "n": 2}
    completion = CompletionRequest(prompt=None, temperature=None, top_p=1.0, min_p=None)
    assert completion.parameters() == {"prompt": "", "max_tokens": 16, "clamp_max_tokens": True, "top_p": 1.0}
