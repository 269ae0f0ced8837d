"""The forms in which a grammar is asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.grammar import MAX_CHOICES, MAX_GRAMMAR, Grammar, GrammarError, GrammarKind, grammar_of

SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}
TEXT = json.dumps(SCHEMA)


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        ({"response_format": {"type": "json_object"}}, GrammarKind.JSON, '{"type": "object"}'),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            GrammarKind.JSON,
            TEXT,
        ),
        ({"structured_outputs": {"json": SCHEMA, "regex": None}}, GrammarKind.JSON, TEXT),
        ({"structured_outputs": {"json_object": True}}, GrammarKind.JSON, '{"type": "object"}'),
        ({"structured_outputs": '{"choice": ["a", "b"]}'}, GrammarKind.CHOICE, '["a", "b"]'),
        ({"guided_json": TEXT}, GrammarKind.JSON, TEXT),
        ({"guided_regex": "a+", "guided_json": None}, GrammarKind.REGEX, "a+"),
        ({"guided_choice": ["ä"]}, GrammarKind.CHOICE, '["ä"]'),
        ({"guided_grammar": 'start: "a"'}, GrammarKind.GRAMMAR, 'start: "a"'),
    ],
)
def test_forms(data: dict[str, Any], kind: GrammarKind, text: str) -> None:
    found = grammar_of(data)
    assert found == Grammar(kind, text, next(iter(data)))
    assert grammar_of({"structured_outputs": found.to_json()}) == found


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"response_format": {"type": "text"}},
        {"structured_outputs": {"json_object": False}},
        {"guided_json": None},
    ],
)
def test_any_text(data: dict[str, Any]) -> None:
    assert grammar_of(data) is None


@pytest.mark.parametrize(
    ("data", "field", "said"),
    [
        ({"response_format": {"type": "xml"}}, "response_format", "'xml' is not supported"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema.schema is missing"),
        ({"response_format": "json_object"}, "response_format", "not JSON"),
        (
            {"structured_outputs": {"structural_tag": "x"}},
            "structured_outputs",
            "'structural_tag' is not supp",
        ),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs", "one of json, regex"),
        ({"structured_outputs": []}, "structured_outputs", "an object is needed"),
        ({"structured_outputs": {"regex": False}}, "structured_outputs", "text is needed, not False"),
        ({"structured_outputs": {"json_object": 0}}, "structured_outputs", "json_object is true or false"),
        ({"guided_json": "[1"}, "guided_json", "not JSON"),
        ({"guided_json": '{"a": 1, "a": 2}'}, "guided_json", "comes twice"),
        ({"guided_json": 3}, "guided_json", "a JSON schema is needed"),
        ({"guided_regex": ""}, "guided_regex", "text is needed"),
        ({"guided_regex": "\ud800"}, "guided_regex", "lone surrogate"),
        ({"guided_grammar": "ä" * (MAX_GRAMMAR // 2 + 1)}, "guided_grammar", f"at most {MAX_GRAMMAR}"),
        ({"guided_choice": []}, "guided_choice", "one or more strings"),
        ({"guided_choice": ["a", 1]}, "guided_choice", "text is needed, not 1"),
        ({"guided_choice": ["a"] * (MAX_CHOICES + 1)}, "guided_choice", f"at most {MAX_CHOICES}"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex", "not together"),
    ],
)
def test_what_is_none_is_named(data: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(GrammarError, match=said) as raised:
        grammar_of(data)
    assert raised.value.field == field
