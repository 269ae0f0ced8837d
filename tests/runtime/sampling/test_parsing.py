"""Reading `sampling_parameters`: what is accepted, and that every fault names field, value and limit."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.contract import Fault, FaultCode
from runtime.errors import RequestFault
from runtime.grammar import FORMS
from runtime.parameters import PARAMETERS
from runtime.sampling import SamplingParameters, parse_sampling_parameters


def fault_of(data: dict[str, Any]) -> Fault:
    with pytest.raises(RequestFault) as caught:
        parse_sampling_parameters(data)
    return caught.value.fault


def test_defaults() -> None:
    assert parse_sampling_parameters({}) == SamplingParameters(
        max_tokens=None,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        stop=(),
        seed=None,
        n=1,
        logprobs=None,
        echo=False,
        deadline_ms=None,
        priority=0,
        caller="",
        ignore_eos=False,
    )


def test_null_means_the_default() -> None:
    names = (*PARAMETERS, *FORMS)
    assert parse_sampling_parameters(dict.fromkeys(names)) == SamplingParameters()


def test_strings_as_clients_of_vllm_send_them() -> None:
    parsed = parse_sampling_parameters(
        {
            "max_tokens": "16",
            "temperature": "0.1",
            "top_p": " 9.5e-1 ",
            "presence_penalty": "-.5",
            "seed": "9223372036854775807",
        }
    )
    assert parsed == SamplingParameters(
        max_tokens=16, temperature=0.1, top_p=0.95, presence_penalty=-0.5, seed=2**63 - 1
    )


def test_whole_floats_are_whole_numbers() -> None:
    parsed = parse_sampling_parameters({"max_tokens": 16.0, "temperature": 1})
    assert (parsed.max_tokens, parsed.temperature) == (16, 1.0)
    assert isinstance(parsed.max_tokens, int)
    assert isinstance(parsed.temperature, float)


@pytest.mark.parametrize(
    ("given_stop", "expected"),
    [
        ("x", ("x",)),
        (["x", "yy"], ("x", "yy")),
        ([], ()),
        (["x", "x"], ("x",)),
        ("é" * 256, ("é" * 256,)),
        ("", ()),
        (["", "x"], ("x",)),
    ],
)
def test_stop(given_stop: object, expected: tuple[str, ...]) -> None:
    assert parse_sampling_parameters({"stop": given_stop}).stop == expected


def test_no_tokens_are_allowed_with_echo() -> None:
    assert parse_sampling_parameters({"max_tokens": 0, "echo": True}).max_tokens == 0
    assert fault_of({"max_tokens": 0}).field == "max_tokens"


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("max_tokens", 1, 2**31 - 1),
        ("min_tokens", 0, 2**31 - 1),
        ("best_of", 1, 20),
        ("temperature", 0, 100),
        ("top_k", 0, 2**31 - 1),
        ("top_p", 0, 1),
        ("min_p", 0, 1),
        ("repetition_penalty", 0.01, 100),
        ("presence_penalty", -2, 2),
        ("frequency_penalty", -2, 2),
        ("seed", 0, 2**63 - 1),
        ("n", 1, 16),
        ("logprobs", 0, 20),
        ("deadline_ms", 1, 86_400_000),
        ("priority", -100, 100),
    ],
)
def test_limits(name: str, low: float, high: float) -> None:
    for value in (low, high):
        assert getattr(parse_sampling_parameters({name: value}), name) == value
    for value in (low - 2, high + 1, -math.inf, math.inf, 10**400, -(10**400)):
        fault = fault_of({name: value})
        assert fault.code is FaultCode.INVALID_ARGUMENT
        assert fault.field == name


NUMBERS = [
    "max_tokens",
    "min_tokens",
    "best_of",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "n",
    "logprobs",
    "deadline_ms",
    "priority",
]
NOT_NUMBERS = [
    math.nan,
    "nan",
    "inf",
    "-Infinity",
    "",
    " ",
    "one",
    "1_0",
    "0x10",
    "1,5",
    "١",
    "1e99999",
    "9" * 5000,
    True,
    False,
    [],
    [1],
    {},
    {"a": 1},
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda value: repr(value)[:12])
def test_not_a_number(name: str, value: object) -> None:
    fault = fault_of({name: value})
    assert fault.code is FaultCode.INVALID_ARGUMENT
    assert fault.field == name
    assert len(fault.message) < 300


@pytest.mark.parametrize("name", ["max_tokens", "top_k", "seed", "n", "logprobs", "deadline_ms", "priority"])
@pytest.mark.parametrize("value", [1.5, "1.5", "1.0", 1e-9])
def test_not_a_whole_number(name: str, value: object) -> None:
    fault = fault_of({name: value})
    assert fault.field == name
    assert "whole number" in fault.message


@pytest.mark.parametrize("name", ["echo", "ignore_eos", "clamp_max_tokens"])
@pytest.mark.parametrize("value", [0, 1, "true", "", [], {}, 1.0])
def test_not_a_switch(name: str, value: object) -> None:
    assert fault_of({name: value}).field == name


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["a"] * 17, "17 strings, but at most 16"),
        ("x" * 257, "257 characters, but at most 256"),
        (["a", 1], "a string or a list of strings is needed, not 1"),
        ([None], "not None"),
        ([["a"]], "not ['a']"),
        (1, "not 1"),
        (True, "not True"),
        ({"a": "b"}, "not {'a': 'b'}"),
        ("\ud800", "lone surrogate"),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_bad_stop(value: object, said: str) -> None:
    fault = fault_of({"stop": value})
    assert fault.field == "stop"
    assert said in fault.message


@pytest.mark.parametrize("value", ["", "192.0.2.1", "a key\n", "é" * 128])
def test_a_caller_may_be_any_text(value: str) -> None:
    assert parse_sampling_parameters({"caller": value}).caller == value


@pytest.mark.parametrize(
    ("value", "said"),
    [("x" * 129, "129 characters, but at most 128"), (1, "not 1"), (["a"], "not ['a']"), (True, "not True")],
)
def test_bad_caller(value: object, said: str) -> None:
    fault = fault_of({"caller": value})
    assert fault.field == "caller"
    assert said in fault.message


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            {"temperature": -1},
            "invalid_argument [temperature]: -1 is out of range; it goes from 0 to 100",
        ),
        ({"top_p": 2}, "invalid_argument [top_p]: 2 is out of range; it goes from 0 to 1"),
        ({"n": "17"}, "invalid_argument [n]: '17' is out of range; it goes from 1 to 16"),
        ({"min_p": math.nan}, "invalid_argument [min_p]: a finite number is needed, not nan"),
        ({"top_k": True}, "invalid_argument [top_k]: a whole number is needed, not True"),
        ({"echo": "yes"}, "invalid_argument [echo]: true or false is needed, not 'yes'"),
    ],
)
def test_messages(data: dict[str, Any], text: str) -> None:
    assert fault_of(data).encode() == text


@pytest.mark.parametrize("key", ["beam_width", "Temperature", "max_new_tokens", "top-k"])
def test_unknown_key(key: str) -> None:
    fault = fault_of({"temperature": 1, key: 3})
    assert fault.code is FaultCode.INVALID_ARGUMENT
    assert repr(key) in fault.message
    assert "known are max_tokens" in fault.message
    assert fault.field == (key if key.isidentifier() else "sampling_parameters")


@pytest.mark.parametrize("value", [-1, "-1", -1.0])
def test_vllm_switches_top_k_off_by_minus_one(value: object) -> None:
    assert parse_sampling_parameters({"top_k": value}) == SamplingParameters(top_k=0)


NEUTRAL: dict[str, list[Any]] = {
    "skip_special_tokens": [True, "true", None],
    "stop_token_ids": [[], "[]", None],
    "use_beam_search": [False, "False", None],
    "length_penalty": [1, 1.0, None],
    "suffix": ["", None],
    "dimensions": [None],
    "include_stop_str_in_output": [False, None],
    "response_format": [{"type": "text"}, None],
    "guided_choice": [None],
    "guided_decoding_backend": ["outlines", None],
    "store": [True, False, None],
    "user": ["me", None],
    "metadata": [{"a": "b"}, {}, None],
    "service_tier": ["auto", None],
    "add_special_tokens": [True, False],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in NEUTRAL for value in NEUTRAL[key]])
def test_what_vllm_s_clients_send_along_may_be_neutral(key: str, value: object) -> None:
    assert parse_sampling_parameters({key: value}) == SamplingParameters()


@pytest.mark.parametrize(
    ("key", "value", "only"),
    [
        ("skip_special_tokens", False, "true"),
        ("skip_special_tokens", 1, "true"),
        ("stop_token_ids", [50256], "[]"),
        ("stop_token_ids", {}, "[]"),
        ("include_stop_str_in_output", True, "false"),
        ("include_stop_str_in_output", 0, "false"),
        ("guided_whitespace_pattern", " ", "null"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(key: str, value: object, only: str) -> None:
    fault = fault_of({key: value})
    assert (fault.code, fault.field) == (FaultCode.INVALID_ARGUMENT, key)
    assert f"is not supported; the only possible value is {only}," in fault.message


def test_best_of_goes_with_n() -> None:
    parsed = parse_sampling_parameters({"best_of": "5", "n": 3})
    assert (parsed.n, parsed.num_sequences) == (3, 5)
    assert parse_sampling_parameters({"n": 3}).num_sequences == 3
    assert "n (3)" in fault_of({"best_of": 1, "n": 3}).message


def test_a_bias_has_token_ids_as_json_writes_them() -> None:
    assert parse_sampling_parameters({"logit_bias": {"50256": -100, "7": 0.5}}).logit_bias == {
        50256: -100.0,
        7: 0.5,
    }
    assert not parse_sampling_parameters({"logit_bias": {}}).logit_bias


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1], "an object of token ids is needed, not [1]"),
        ({"the": 1}, "a token id is needed as name, not 'the'"),
        ({"-1": 1}, "a token id is needed as name, not '-1'"),
        ({"1": 101}, "a number from -100 to 100 is needed, not 101"),
        ({"1": math.nan}, "from -100 to 100 is needed, not nan"),
        ({"1": "5"}, "from -100 to 100 is needed, not '5'"),
        ({"1": True}, "from -100 to 100 is needed, not True"),
        ({str(token): 1 for token in range(1025)}, "1025 tokens, but at most 1024"),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_bad_bias(value: object, said: str) -> None:
    fault = fault_of({"logit_bias": value})
    assert fault.field == "logit_bias"
    assert said in fault.message


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*PARAMETERS, *FORMS, *NEUTRAL]) | st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=4,
        ),
        max_size=3,
    )
)
def test_any_json_is_read_or_refused_with_a_fault_that_survives_its_journey(data: dict[str, Any]) -> None:
    try:
        parsed = parse_sampling_parameters(data)
    except RequestFault as error:
        fault = error.fault
    else:
        again = {name: getattr(parsed, name) for name in PARAMETERS}
        forms = {name: value for name, value in data.items() if name in FORMS}
        assert parse_sampling_parameters(json.loads(json.dumps({**again, **forms}))) == parsed
        return
    assert Fault.decode(fault.encode()) == fault
    assert fault.encode().isprintable()
