"""The types of answers and parameters are those of the API's own document."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints, is_typeddict

import pytest

from api.front.openapi import openapi_document
from api.front.routes import ENDPOINTS
from client import answers, parameters

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
