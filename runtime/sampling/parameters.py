"""`sampling_parameters` of a request: their ranges, their defaults and the reading of them from JSON.

Names and numeric strings are those of Triton's vLLM backend, whose clients send every value as text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.contract import LEAST_URGENT, MAX_CALLER_LENGTH, MOST_URGENT
from runtime.errors import RequestFault

DEFAULT_MAX_TOKENS = 64
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256  # characters
MAX_LOGPROBS = 20

TOP_K_OFF = -1  # as vLLM writes it; here it becomes 0

# As in vLLM, a temperature so small that only the largest logit could win means greedy.
GREEDY_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How one request chooses tokens and when it ends. Temperature 0 is greedy; top_k 0 is off."""

    max_tokens: int | None = (
        None  # None: the engine takes DEFAULT_MAX_TOKENS or what the context has room for
    )
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None  # alternatives listed beside each token; None: no logprob records
    echo: bool = False
    deadline_ms: int | None = None  # milliseconds from arrival
    priority: int = 0
    caller: str = ""  # whoever shares the engine with others, within one priority in equal parts
    ignore_eos: bool = False

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_TEMPERATURE

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


@dataclass(frozen=True, slots=True)
class _Range:
    low: float
    high: float
    low_allowed: bool = True

    def __contains__(self, number: float) -> bool:
        return (number >= self.low if self.low_allowed else number > self.low) and number <= self.high

    def __str__(self) -> str:
        if self.low_allowed:
            return f"from {_figure(self.low)} to {_figure(self.high)}"
        return f"above {_figure(self.low)} and at most {_figure(self.high)}"


_FLOATS = {
    "temperature": _Range(0, 100),
    "top_p": _Range(0, 1, low_allowed=False),
    "min_p": _Range(0, 1),
    "repetition_penalty": _Range(0.01, 100),
    "presence_penalty": _Range(-2, 2),
    "frequency_penalty": _Range(-2, 2),
}
_INTEGERS = {
    "max_tokens": _Range(0, 2**31 - 1),
    "top_k": _Range(TOP_K_OFF, 2**31 - 1),
    "seed": _Range(0, 2**63 - 1),
    "n": _Range(1, 16),
    "logprobs": _Range(0, MAX_LOGPROBS),
    "deadline_ms": _Range(1, 24 * 60 * 60 * 1000),
    "priority": _Range(MOST_URGENT, LEAST_URGENT),
}
_SWITCHES = ("echo", "ignore_eos")
# What vLLM's clients send along and the engine does not have: only the value that changes nothing is taken.
_NEUTRAL: dict[str, Any] = {
    "min_tokens": 0,
    "skip_special_tokens": True,
    "stop_token_ids": [],
    "include_stop_str_in_output": False,
}
_BEST_OF = "best_of"  # likewise; neutral is the value of n

_INTEGER_TEXT = re.compile(r"[+-]?[0-9]{1,32}", re.ASCII)
_FLOAT_TEXT = re.compile(r"[+-]?([0-9]{1,32}\.?[0-9]{0,32}|\.[0-9]{1,32})([eE][+-]?[0-9]{1,4})?", re.ASCII)


def parse_sampling_parameters(data: Mapping[str, Any]) -> SamplingParameters:
    """Check and convert the parsed JSON object; null means the default.

    Raises RequestFault (invalid_argument) that names field, value and limit, also for an unknown key.
    """
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key in _FLOATS:
            parsed: Any = None if value is None else _float(key, value)
        elif key in _INTEGERS:
            parsed = None if value is None else _integer(key, value)
        elif key in _SWITCHES:
            parsed = None if value is None else _switch(key, value)
        elif key == "stop":
            parsed = None if value is None else _stop(value)
        elif key == "caller":
            parsed = None if value is None else _caller(value)
        elif key in _NEUTRAL or key == _BEST_OF:
            continue
        else:
            raise _unknown(key)
        if parsed is not None:
            values[key] = parsed
    if values.get("top_k") == TOP_K_OFF:
        values["top_k"] = 0
    parameters = SamplingParameters(**values)
    for key, neutral in {**_NEUTRAL, _BEST_OF: parameters.n}.items():
        _check_neutral(key, data.get(key), neutral)
    if parameters.max_tokens == 0 and not parameters.echo:
        raise RequestFault.invalid("max_tokens", "0 is allowed only with echo; ask for 1 or more")
    return parameters


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
    if number not in _FLOATS[key]:
        raise RequestFault.invalid(key, f"{shown(value)} is out of range; it goes {_FLOATS[key]}")
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
    if number not in _INTEGERS[key]:
        raise RequestFault.invalid(key, f"{shown(value)} is out of range; it goes {_INTEGERS[key]}")
    return number


def _switch(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RequestFault.invalid(key, f"true or false is needed, not {shown(value)}")
    return value


def _check_neutral(key: str, value: Any, neutral: Any) -> None:
    """Raises RequestFault unless `value` is null or `neutral`: a number, a switch or an empty list."""
    text = isinstance(value, str) and type(neutral) is int
    same = value.strip() == str(neutral) if text else type(value) is type(neutral) and value == neutral
    if value is not None and not same:
        wanted = f"n ({neutral})" if key == _BEST_OF else str(neutral).lower()
        raise RequestFault.invalid(
            key, f"{shown(value)} is not supported; the only possible value is {wanted}, or leave it out"
        )


def _stop(value: Any) -> tuple[str, ...]:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list | tuple):
        raise RequestFault.invalid("stop", f"a string or a list of strings is needed, not {shown(value)}")
    if len(strings) > MAX_STOP_STRINGS:
        raise RequestFault.invalid(
            "stop", f"{len(strings)} strings, but at most {MAX_STOP_STRINGS} are allowed"
        )
    for string in strings:
        if not isinstance(string, str):
            raise RequestFault.invalid(
                "stop", f"a string or a list of strings is needed, not {shown(string)}"
            )
        if not string:
            raise RequestFault.invalid("stop", "an empty string would end every text at once; leave it out")
        if len(string) > MAX_STOP_LENGTH:
            raise RequestFault.invalid(
                "stop", f"a string of {len(string)} characters, but at most {MAX_STOP_LENGTH} are allowed"
            )
        if any("\ud800" <= character <= "\udfff" for character in string):
            raise RequestFault.invalid("stop", f"{shown(string)} holds a lone surrogate, which is not text")
    return tuple(dict.fromkeys(strings))


def _caller(value: Any) -> str:
    if not isinstance(value, str):
        raise RequestFault.invalid("caller", f"a string is needed, not {shown(value)}")
    if len(value) > MAX_CALLER_LENGTH:
        message = f"a string of {len(value)} characters, but at most {MAX_CALLER_LENGTH} are allowed"
        raise RequestFault.invalid("caller", message)
    return value


def _unknown(key: Any) -> RequestFault:
    known = ", ".join([*_FLOATS, *_INTEGERS, *_SWITCHES, "stop", "caller"])
    message = f"unknown parameter {shown(key)}; known are {known}"
    # A fault travels as `code [field]: message`, which a name with brackets or colons would break.
    named = isinstance(key, str) and re.fullmatch(r"\w{1,64}", key, re.ASCII) is not None
    return RequestFault.invalid(key if named else "sampling_parameters", message)


def shown(value: Any) -> str:
    """The value as a message may quote it: one line of ASCII, cut where long."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    text = ascii(value[:80] if isinstance(value, str | list | tuple) else value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _figure(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)
