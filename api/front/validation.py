"""From parsed input to a schema, with errors that name field, value and limit."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from api.errors import FieldError, InvalidInput

LONGEST_SHOWN = 60  # characters of a value that a message repeats
LONGEST_PATH = 200  # characters of a field's path likewise
LONGEST_MESSAGE = 1000
LONGEST_GUESSED = 64  # characters of an unknown name that is compared with the known ones
MOST_ERRORS = 64  # that one answer tells of; a body has room for a hundred thousand

Model = TypeVar("Model", bound=BaseModel)

# What a type error asks for, in the words of JSON.
NEEDED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "finite_number": "a finite number",
}
# Limits, by what the error says of them: the message with the limit, and its name in pydantic's context.
LIMITS = {
    "greater_than_equal": ("must be at least {limit}", "ge"),
    "greater_than": ("must be above {limit}", "gt"),
    "less_than_equal": ("must be at most {limit}", "le"),
    "less_than": ("must be below {limit}", "lt"),
}


def validate(model: type[Model], value: Any, *, strict: bool = True) -> Model:
    """`strict` off reads numbers and switches out of text, for query parameters. Raises InvalidInput."""
    try:
        return model.model_validate(value, strict=strict)
    except ValidationError as error:
        told = error.errors()[:MOST_ERRORS]
        raise InvalidInput([_field_error(item, value, model) for item in told]) from None


def _field_error(item: Mapping[str, Any], value: Any, model: type[BaseModel]) -> FieldError:
    path = _cut(field_path(item["loc"], value, missing=item["type"] == "missing"), LONGEST_PATH)
    message = _cut(_message(item, model), LONGEST_MESSAGE)
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path = ".".join(filter(None, (path, item["ctx"]["discriminator"].strip("'"))))
    if item["type"] == "value_error":
        # A check over several fields names the one to blame first.
        name, separator, rest = message.partition(": ")
        if separator and name.isidentifier():
            return FieldError(".".join(filter(None, (path, name))), rest)
    return FieldError(path or "request", message)


def field_path(location: Sequence[int | str], value: Any, *, missing: bool = False) -> str:
    """pydantic's location as a dotted path into the input, without the names of a union's members.

    `missing`: its last step is a field that the input lacks.
    """
    path: list[str] = []
    for number, step in enumerate(location):
        absent = missing and number == len(location) - 1
        if isinstance(value, Mapping) and (step in value or absent):
            path.append(str(step))
            value = value.get(str(step))
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            path.append(str(step))
            value = value[step]
    return ".".join(path)


def _message(item: Mapping[str, Any], model: type[BaseModel]) -> str:
    kind, given, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind == "missing":
        return "missing"
    if kind == "extra_forbidden":
        return _unknown(str(item["loc"][-1]), model)
    if kind in NEEDED:
        return f"{NEEDED[kind]} is needed, not {shown(given)}"
    if kind in LIMITS:
        text, name = LIMITS[kind]
        return f"{text.format(limit=_figure(context[name]))}, not {shown(given)}"
    if kind == "string_too_short":
        limit = context["min_length"]
        return "must not be empty" if limit == 1 else f"must have at least {limit} characters"
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} characters, not {len(str(given))}"
    if kind == "too_short":
        return f"must have at least {context['min_length']} items, not {context['actual_length']}"
    if kind == "too_long":
        length = len(given) if isinstance(given, list) else context["actual_length"]
        return f"must have at most {context['max_length']} items, not {length}"
    if kind in ("literal_error", "enum"):
        return f"must be {context['expected']}, not {shown(given)}"
    if kind == "union_tag_invalid":
        return f"{shown(context['tag'])} is not one of {context['expected_tags'].replace(chr(39), '')}"
    if kind == "union_tag_not_found":
        return "missing"
    return str(item["msg"]).removeprefix("Value error, ")


def _unknown(name: str, model: type[BaseModel]) -> str:
    close = difflib.get_close_matches(name[:LONGEST_GUESSED], model.model_fields, n=1)
    return f"unknown field; did you mean {close[0]}?" if close else "unknown field"


def shown(value: Any) -> str:
    """A value as JSON would write it, cut to a length that fits a message."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return _cut(repr(value), LONGEST_SHOWN)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "…"


def _figure(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)
