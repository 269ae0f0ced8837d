"""The types of answers and parameters are those of the API's own document."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints, is_typeddict

import pytest

from api.front.openapi import openapi_document
from api.front.routes import ENDPOINTS
from client import answers, parameters
from client.http import Client

SCHEMAS: dict[str, Any] = openapi_document(tuple(ENDPOINTS))["components"]["schemas"]
TYPES = {
    name: kind
    for module in (answers, parameters)
    for name, kind in inspect.getmembers(module, is_typeddict)
    if name not in ("Answer", "TaskParameters")  # what others begin with
}


def test_the_api_has_each_type() -> None:
    assert len(TYPES) > 20
    assert TYPES.keys() - SCHEMAS.keys() == set()


@pytest.mark.parametrize("name", sorted(TYPES))
def test_a_type_has_the_fields_of_the_api(name: str) -> None:
    fields = get_type_hints(TYPES[name]).keys()
    assert fields <= SCHEMAS[name]["properties"].keys()


@pytest.mark.parametrize("task", ["generate", "classify", "nlu", "next", "score"])
def test_a_parameter_of_the_api_is_an_argument(task: str) -> None:
    """`stream` is a method."""
    wanted = f"{task.capitalize()}Parameters"
    named = get_type_hints(TYPES[wanted]).keys() | set(inspect.signature(getattr(Client, task)).parameters)
    offered = SCHEMAS[wanted]["properties"].keys() - {"input", "stream"}
    assert offered - named == set()
