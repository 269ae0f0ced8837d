"""Strict JSON: what RFC 8259 leaves open is refused, since a guess would answer another question."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn

MAX_DEPTH = 32  # arrays and objects within each other

_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


class MalformedJson(Exception):
    """`str(error)` says what is wrong and where."""


def parse_json(body: bytes) -> Any:
    """Parse UTF-8 JSON. Raises MalformedJson, also for NaN, duplicate names and lone surrogates."""
    if not body.strip():
        raise MalformedJson("the body is empty; a JSON object is needed")
    _check_depth(body)
    try:
        text = body.decode()
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise MalformedJson(
            f"the body is not UTF-8: byte 0x{body[error.start]:02x} at offset {error.start}"
        ) from None
    except json.JSONDecodeError as error:
        raise MalformedJson(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise MalformedJson(str(error)) from None
    if b"\\u" in body:
        _check_surrogates(value)
    return value


def _check_depth(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _STRUCTURE.finditer(body):
        token = match.group()
        depth += (token in b"[{") - (token in b"]}") if len(token) == 1 and token != b'"' else 0
        if depth > MAX_DEPTH:
            raise MalformedJson(f"arrays and objects are nested deeper than {MAX_DEPTH}, the limit")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise MalformedJson(f"the name {twice!r} comes twice in one object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedJson(f"{name} is not JSON; numbers must be finite")


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise MalformedJson(
            "a string holds a lone surrogate (\\ud800 to \\udfff), which is not text"
        ) from None
