"""What the text of an answer has to be, in the forms of OpenAI and vLLM (`runtime/grammar.py`)."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from api.middle.schemas.base import TakesNeutral
from runtime.grammar import FORMS, MAX_CHOICES, MAX_GRAMMAR, GrammarError, grammar_of
from runtime.parameters import WITH_GRAMMAR

_SCHEMA: dict[str, Any] = {"type": "object", "description": "A JSON schema."}
_TEXT: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": MAX_GRAMMAR}
_CHOICES: dict[str, Any] = {
    "type": "array",
    "items": {"type": "string", "minLength": 1},
    "minItems": 1,
    "maxItems": MAX_CHOICES,
}
_RESPONSE_FORMAT: dict[str, Any] = {
    "oneOf": [
        {"type": "object", "properties": {"type": {"const": "text"}}, "required": ["type"]},
        {"type": "object", "properties": {"type": {"const": "json_object"}}, "required": ["type"]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "json_schema"},
                "json_schema": {
                    "type": "object",
                    "properties": {"schema": _SCHEMA},
                    "required": ["schema"],
                },
            },
            "required": ["type", "json_schema"],
        },
    ]
}
_ASKED: dict[str, Any] = {
    "json": {"anyOf": [_SCHEMA, _TEXT]},
    "regex": _TEXT,
    "choice": _CHOICES,
    "grammar": _TEXT,
    "json_object": {"type": "boolean"},
}
_STRUCTURED_OUTPUTS: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in _ASKED.items()},
    "additionalProperties": False,
}


def _form(name: str, schema: dict[str, Any], **other: Any) -> Any:
    """A field that `grammar_of` reads; `schema` is for the OpenAPI document."""
    described: Any = {"anyOf": [schema, {"type": "null"}]}
    return Field(default=None, description=FORMS[name].help, json_schema_extra=described, **other)


class TakesGrammar(TakesNeutral):
    """What generates text and may have to follow a grammar."""

    response_format: dict[str, Any] | None = _form("response_format", _RESPONSE_FORMAT)
    structured_outputs: dict[str, Any] | None = _form("structured_outputs", _STRUCTURED_OUTPUTS)
    guided_json: Any = _form("guided_json", {"anyOf": [_SCHEMA, _TEXT]})
    guided_regex: str | None = _form("guided_regex", {**_TEXT, "format": "regex"})
    guided_choice: list[str] | None = _form("guided_choice", _CHOICES)
    guided_grammar: str | None = _form("guided_grammar", _TEXT)

    @model_validator(mode="after")
    def _one_grammar(self) -> TakesGrammar:
        try:
            grammar = grammar_of({name: getattr(self, name) for name in FORMS})
        except GrammarError as error:
            raise ValueError(f"{error.field}: {error}") from None
        if grammar is not None and getattr(self, "ignore_eos", False):
            raise ValueError(f"ignore_eos: {WITH_GRAMMAR}")
        return self
