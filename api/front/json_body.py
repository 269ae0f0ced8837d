"""The JSON of a request's body: strict, and bounded before anything of it is made."""

from __future__ import annotations

import json
import re
from typing import Any

from runtime import strict_json

MAX_DEPTH = 32  # arrays and objects within each other
MAX_CONTAINERS = 4096  # arrays and objects in all; each costs as much as a hundred bytes of text
MAX_MEMBERS = 1000  # of one object; a message about an unknown one takes some microseconds to make
EXACT = 2**53  # below it a float64 holds every whole number exactly

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class MalformedJson(Exception):
    """`str(error)` says what is wrong and where."""


def parse_json(body: bytes) -> Any:
    """Parse UTF-8 JSON. Raises MalformedJson, also for NaN, repeated names and lone surrogates."""
    if not body.strip():
        raise MalformedJson("the body is empty; a JSON object is needed")
    _check_structure(body)
    try:
        return strict_json.parse(body.decode(), parse_float=_number, max_members=MAX_MEMBERS)
    except UnicodeDecodeError as error:
        raise MalformedJson(
            f"the body is not UTF-8: byte 0x{body[error.start]:02x} at offset {error.start}"
        ) from None
    except json.JSONDecodeError as error:
        raise MalformedJson(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:  # also an integer of more digits than Python converts
        raise MalformedJson(str(error)) from None


def _check_structure(body: bytes) -> None:
    """Count arrays and objects before one is made, in few passes: a step for each took seconds."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRING.sub(b"", body).translate(None, delete=_NO_BRACKETS)
    depth = 0
    for bracket in brackets[: 2 * MAX_CONTAINERS]:
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise MalformedJson(f"arrays and objects are nested deeper than {MAX_DEPTH}, the limit")
    if len(brackets) > 2 * MAX_CONTAINERS:
        raise MalformedJson(f"more than {MAX_CONTAINERS} arrays and objects, the limit")


def _number(text: str) -> float:
    """16.0 is a whole number however it is written, as in JSON Schema."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < EXACT else value
