"""Reading the `sampling_parameters` of a request from JSON.

Names and numeric strings are those of Triton's vLLM backend, whose clients send every value as text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from runtime.contract import shown
from runtime.errors import RequestFault
from runtime.grammar import FORMS, Grammar, GrammarError, grammar_of
from runtime.parameters import (
    IGNORED_PARAMETERS,
    MAX_BIAS,
    MAX_BIASED_TOKENS,
    MAX_CALLER_LENGTH,
    MAX_STOP_LENGTH,
    MAX_STOP_STRINGS,
    NEUTRAL_PARAMETERS,
    PARAMETERS,
    TOP_K_OFF,
    WITH_GRAMMAR,
    SamplingParameters,
    why_not_neutral,
)

_KNOWN = NEUTRAL_PARAMETERS.keys() | IGNORED_PARAMETERS | FORMS.keys()
_INTEGER_TEXT = re.compile(r"[+-]?[0-9]{1,32}", re.ASCII)
_FLOAT_TEXT = re.compile(r"[+-]?([0-9]{1,32}\.?[0-9]{0,32}|\.[0-9]{1,32})([eE][+-]?[0-9]{1,4})?", re.ASCII)


def parse_sampling_parameters(data: Mapping[str, Any]) -> SamplingParameters:
    """Check and convert the parsed JSON object; null means the default.

    Raises RequestFault (invalid_argument) that names field, value and limit, also for an unknown key.
    """
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key in PARAMETERS:
            if value is not None:
                values[key] = _READERS[PARAMETERS[key].type](key, value)
        elif key not in _KNOWN:
            raise _unknown(key)
    if values.get("top_k") == TOP_K_OFF:
        values["top_k"] = 0
    parameters = SamplingParameters(**values, grammar=_grammar(data))
    for key in data.keys() & NEUTRAL_PARAMETERS.keys():
        if refusal := why_not_neutral(key, data[key]):
            raise RequestFault.invalid(key, refusal)
    if parameters.num_sequences < parameters.n:
        raise RequestFault.invalid(
            "best_of", f"{parameters.best_of} is less than n ({parameters.n}), of which it is a choice"
        )
    if parameters.grammar is not None and parameters.ignore_eos:
        raise RequestFault.invalid("ignore_eos", WITH_GRAMMAR)
    if parameters.max_tokens == 0 and not parameters.echo:
        raise RequestFault.invalid("max_tokens", "0 is allowed only with echo; ask for 1 or more")
    return parameters


def _grammar(data: Mapping[str, Any]) -> Grammar | None:
    try:
        return grammar_of(data)
    except GrammarError as error:
        raise RequestFault.invalid(error.field, str(error)) from None


def _float(key: str, value: Any) -> float:
    if isinstance(value, str):
        if not _FLOAT_TEXT.fullmatch(value.strip()):
            raise RequestFault.invalid(key, f"a finite number is needed, not {shown(value)}")
        number = float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        # An integer of hundreds of digits has no float; any number beyond the range serves as well.
        number = float(max(min(value, 10**18), -(10**18))) if isinstance(value, int) else value
    else:
        raise RequestFault.invalid(key, f"a number is needed, not {shown(value)}")
    if not math.isfinite(number):
        raise RequestFault.invalid(key, f"a finite number is needed, not {shown(value)}")
    _check_range(key, value, number)
    return number


def _integer(key: str, value: Any) -> int:
    if isinstance(value, str):
        whole = _INTEGER_TEXT.fullmatch(value.strip()) is not None
    elif isinstance(value, float):
        whole = value.is_integer()
    else:
        whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole:
        raise RequestFault.invalid(key, f"a whole number is needed, not {shown(value)}")
    number = int(value)
    _check_range(key, value, number)
    return number


def _check_range(key: str, value: Any, number: float) -> None:
    limits = PARAMETERS[key].range
    if number not in limits:
        raise RequestFault.invalid(key, f"{shown(value)} is out of range; it goes {limits}")


def _switch(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RequestFault.invalid(key, f"true or false is needed, not {shown(value)}")
    return value


def _stop(key: str, value: Any) -> tuple[str, ...]:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list | tuple):
        raise RequestFault.invalid(key, f"a string or a list of strings is needed, not {shown(value)}")
    if len(strings) > MAX_STOP_STRINGS:
        raise RequestFault.invalid(key, f"{len(strings)} strings, but at most {MAX_STOP_STRINGS} are allowed")
    for string in strings:
        if not isinstance(string, str):
            raise RequestFault.invalid(key, f"a string or a list of strings is needed, not {shown(string)}")
        if len(string) > MAX_STOP_LENGTH:
            message = f"a string of {len(string)} characters, but at most {MAX_STOP_LENGTH} are allowed"
            raise RequestFault.invalid(key, message)
        if any("\ud800" <= character <= "\udfff" for character in string):
            raise RequestFault.invalid(key, f"{shown(string)} holds a lone surrogate, which is not text")
    return tuple(dict.fromkeys(filter(None, strings)))  # an empty one asks for nothing


def _bias(key: str, value: Any) -> dict[int, float]:
    if not isinstance(value, dict):
        raise RequestFault.invalid(key, f"an object of token ids is needed, not {shown(value)}")
    if len(value) > MAX_BIASED_TOKENS:
        message = f"{len(value)} tokens, but at most {MAX_BIASED_TOKENS} are allowed"
        raise RequestFault.invalid(key, message)
    return {_token_id(key, name): _one_bias(key, bias) for name, bias in value.items()}


def _token_id(key: str, name: Any) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", str(name), re.ASCII):
        raise RequestFault.invalid(key, f"a token id is needed as name, not {shown(name)}")
    return int(name)


def _one_bias(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_BIAS:
        message = f"a number from -{MAX_BIAS} to {MAX_BIAS} is needed, not {shown(value)}"
        raise RequestFault.invalid(key, message)
    return float(value)


def _caller(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RequestFault.invalid(key, f"a string is needed, not {shown(value)}")
    if len(value) > MAX_CALLER_LENGTH:
        message = f"a string of {len(value)} characters, but at most {MAX_CALLER_LENGTH} are allowed"
        raise RequestFault.invalid(key, message)
    return value


# How a value is read, by the type that the table gives the parameter.
_READERS: Mapping[type, Callable[[str, Any], Any]] = {
    float: _float,
    int: _integer,
    bool: _switch,
    tuple: _stop,
    Mapping: _bias,
    str: _caller,
}


def _unknown(key: Any) -> RequestFault:
    known = ", ".join((*PARAMETERS, *FORMS))
    message = f"unknown parameter {shown(key)}; known are {known}"
    # A fault travels as `code [field]: message`, which a name with brackets or colons would break.
    named = isinstance(key, str) and re.fullmatch(r"\w{1,64}", key, re.ASCII) is not None
    return RequestFault.invalid(key if named else "sampling_parameters", message)
