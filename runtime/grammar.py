"""What the text of an answer has to be: the forms in which OpenAI's and vLLM's clients ask for it.

Each form is declared once, in FORMS. Façade and engine read them with `grammar_of`, so that natively and over
HTTP the same is accepted and refused. Standard library only. What a grammar means is found out by
`runtime/masks`, which compiles it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from runtime.contract import shown
from runtime.strict_json import parse

MAX_GRAMMAR = 32 * 1024  # bytes, as UTF-8
MAX_CHOICES = 1024


class GrammarKind(str, Enum):
    JSON = "json"  # a JSON schema
    REGEX = "regex"
    CHOICE = "choice"  # a list of strings, as JSON
    GRAMMAR = "grammar"  # context-free, in Lark's notation


@dataclass(frozen=True, slots=True)
class Grammar:
    """The text of an answer has to match it."""

    kind: GrammarKind
    text: str
    field: str = field(compare=False)  # of the request, for messages

    def to_json(self) -> dict[str, Any]:
        """The same as `structured_outputs`."""
        is_text = self.kind in (GrammarKind.REGEX, GrammarKind.GRAMMAR)
        return {self.kind.value: self.text if is_text else json.loads(self.text)}


class GrammarError(ValueError):
    """`field` of the request holds no grammar that can be read."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def grammar_of(data: Mapping[str, Any]) -> Grammar | None:
    """The grammar that the parameters of a request ask for; None: any text. Raises GrammarError."""
    found = [grammar for name in FORMS if (grammar := _read(name, data.get(name))) is not None]
    if len(found) > 1:
        raise GrammarError(found[1].field, f"not together with {found[0].field}: give one of them")
    return found[0] if found else None


def _read(name: str, value: Any) -> Grammar | None:
    return None if value is None else FORMS[name].read(name, value)


def _response_format(name: str, value: Any) -> Grammar | None:
    asked = _object(name, value)
    kind = asked.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return _json(name, {"type": "object"})
    if kind != "json_schema":
        message = f'type {shown(kind)} is not supported; known are "text", "json_object" and "json_schema"'
        raise GrammarError(name, message)
    described = asked.get("json_schema")
    if not isinstance(described, dict) or described.get("schema") is None:
        raise GrammarError(name, "json_schema.schema is missing")
    return _json(name, described["schema"])


def _structured_outputs(name: str, value: Any) -> Grammar | None:
    given = _object(name, value)
    asked = {key: item for key, item in given.items() if item is not None}
    if asked.get("json_object") is False:
        del asked["json_object"]
    unknown = asked.keys() - STRUCTURED_OUTPUTS.keys()
    if unknown:
        known = ", ".join(STRUCTURED_OUTPUTS)
        raise GrammarError(name, f"{shown(min(unknown))} is not supported; known are {known}")
    if len(asked) > 1:
        raise GrammarError(name, f"one of {', '.join(sorted(asked))} is possible, not several")
    return next((STRUCTURED_OUTPUTS[key](name, item) for key, item in asked.items()), None)


def _json_object(name: str, value: Any) -> Grammar:
    if value is not True:
        raise GrammarError(name, f"json_object is true or false, not {shown(value)}")
    return _json(name, {"type": "object"})


def _json(name: str, value: Any) -> Grammar:
    """`value` is a JSON schema, or the text of one."""
    schema = _parsed(name, value) if isinstance(value, str) else value
    if not isinstance(schema, dict):
        raise GrammarError(name, f"a JSON schema is needed, which is an object, not {shown(value)}")
    return _sized(GrammarKind.JSON, json.dumps(schema, ensure_ascii=False), name)


def _regex(name: str, value: Any) -> Grammar:
    return _sized(GrammarKind.REGEX, _text(name, value), name)


def _grammar(name: str, value: Any) -> Grammar:
    return _sized(GrammarKind.GRAMMAR, _text(name, value), name)


def _choice(name: str, value: Any) -> Grammar:
    if not isinstance(value, list | tuple) or not value:
        raise GrammarError(name, f"a list of one or more strings is needed, not {shown(value)}")
    if len(value) > MAX_CHOICES:
        raise GrammarError(name, f"{len(value)} choices, but at most {MAX_CHOICES} are allowed")
    choices = [_text(name, item) for item in value]
    return _sized(GrammarKind.CHOICE, json.dumps(choices, ensure_ascii=False), name)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise GrammarError(name, f"text is needed, not {shown(value)}")
    return value


def _object(name: str, value: Any) -> Mapping[str, Any]:
    """vLLM's clients on Triton send every value as text."""
    found = _parsed(name, value) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise GrammarError(name, f"an object is needed, not {shown(value)}")
    return found


def _parsed(name: str, text: str) -> Any:
    if len(text) > MAX_GRAMMAR:
        raise GrammarError(name, f"{len(text)} characters, but at most {MAX_GRAMMAR} are read")
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:
        raise GrammarError(name, f"not JSON: {error}") from None


def _sized(kind: GrammarKind, text: str, name: str) -> Grammar:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise GrammarError(name, "a lone surrogate is in it, which is not text") from None
    if size > MAX_GRAMMAR:
        raise GrammarError(name, f"{size} bytes, but at most {MAX_GRAMMAR} are allowed")
    return Grammar(kind, text, name)


@dataclass(frozen=True, slots=True)
class Form:
    read: Callable[[str, Any], Grammar | None]  # of the field's name and value; raises GrammarError
    help: str


# What `structured_outputs` may hold, one of them.
STRUCTURED_OUTPUTS: Mapping[str, Callable[[str, Any], Grammar]] = {
    "json": _json,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
    "json_object": _json_object,
}
_SCHEMA_HELP = "The properties of an object come in the order of the schema."
FORMS: Mapping[str, Form] = {
    "response_format": Form(
        _response_format,
        "OpenAI's form: the text is a JSON object (json_object), or follows a JSON schema (json_schema). "
        + _SCHEMA_HELP,
    ),
    "structured_outputs": Form(
        _structured_outputs,
        f"vLLM's form: the text follows one of {', '.join(STRUCTURED_OUTPUTS)}.",
    ),
    "guided_json": Form(_json, f"The text follows this JSON schema. {_SCHEMA_HELP}"),
    "guided_regex": Form(_regex, "The text matches this regular expression, as a whole."),
    "guided_choice": Form(_choice, "The text is one of these strings."),
    "guided_grammar": Form(_grammar, "The text follows this context-free grammar, in the notation of Lark."),
}
