"""What the OpenAPI document promises is taken: requests made from its schemas are never refused as wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from starlette.testclient import TestClient

from api.app import create_app
from api.config import Settings
from api.front.endpoint import Endpoint
from api.front.openapi import openapi_document
from api.front.routes import ENDPOINTS
from runtime.grammar import FORMS
from tests.api.conftest import serving_client
from tests.api.stored import stored

Schema = Mapping[str, Any]
DOCUMENT = openapi_document(ENDPOINTS)
DEFINITIONS = DOCUMENT["components"]["schemas"]
OPERATIONS = {
    (method, path): operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
BODIES = [
    key
    for key, operation in OPERATIONS.items()
    if "application/json" in operation.get("requestBody", {}).get("content", {})
]
QUERIES = [endpoint for endpoint in ENDPOINTS if endpoint.query is not None]
# An alias is given to a version that is there, which no schema can say.
ALIASES = {"latest_but_one": 1, "old": None}


def values(schema: Schema) -> st.SearchStrategy[Any]:
    """JSON values by the schema's words; what several words together forbid is filtered later."""
    if "$ref" in schema:
        return values(DEFINITIONS[schema["$ref"].rsplit("/", 1)[-1]])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "object" and "properties" not in schema:
        named = {"type": "string", **schema.get("propertyNames", {})}
        return st.dictionaries(values(named), values(schema["additionalProperties"]), max_size=3)
    if schema.get("type") == "object":
        return st.one_of([objects(schema, form) for form in schema.get("anyOf", [{}])])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            wanted = schema.get("type")
            choices = [item for item in schema[union] if wanted in (None, item.get("type"))]
            return st.one_of([values(choice) for choice in choices])
    return plain(schema)


def plain(schema: Schema) -> st.SearchStrategy[Any]:
    match schema["type"]:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            whole = st.integers(schema.get("minimum"), schema.get("maximum"))
            return whole | whole.filter(lambda number: abs(number) < 2**53).map(float)
        case "number":
            low = schema.get("minimum", schema.get("exclusiveMinimum"))
            return st.floats(
                low,
                schema.get("maximum"),
                exclude_min="exclusiveMinimum" in schema,
                allow_nan=False,
                allow_infinity=False,
            )
        case "array":
            items = values(schema["items"])
            return st.lists(items, min_size=schema.get("minItems", 0), max_size=3)
        case "string" if "pattern" in schema:
            # Python's `$` also stands before a last line feed, which that of JSON Schema does not.
            texts: st.SearchStrategy[str] = st.from_regex(re.compile(schema["pattern"]), fullmatch=True)
            return texts.filter(lambda text: not text.endswith("\n"))
        case "string":
            letters = st.characters(exclude_categories=["Cs"])
            most = min(schema.get("maxLength", 12), 12)
            return st.text(letters, min_size=schema.get("minLength", 0), max_size=most)
    raise AssertionError(f"no values for {schema}")


# Members whose values must fit what is there. No server is called back from here.
BOUNDS = st.fixed_dictionaries({"min": st.integers(0, 2), "max": st.integers(2, 4)})
ROWS = [{"text": "a lovely film", "label": "good"}, {"text": "a dreadful film", "label": "bad"}]
GIVEN: Mapping[str, st.SearchStrategy[Any]] = {
    "messages": st.lists(st.just({"role": "user", "content": "a"}), min_size=1),
    "top_logprobs": st.none(),  # only with logprobs
    "aliases": st.just(ALIASES),
    "autoscale": st.none() | BOUNDS,  # no schema says that one is not above the other
    "best_of": st.none(),  # likewise: it is not below n, and n in a stream
    "callback_url": st.none(),
    "figures": st.dictionaries(
        st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=3
    ),
    # Of tasks of type `train`: rows and options fit a kind of model, which no schema says.
    "data": st.just(ROWS),
    "from": st.none() | st.just("mini-lm"),
    "held_out": st.just(ROWS) | st.floats(0.1, 0.9),
    "kind": st.just("classifier"),
    "options": st.fixed_dictionaries({}, optional={"epochs": st.none() | st.integers(1, 9)}),
    "test": st.none() | st.just(ROWS),
    # A grammar goes with no other one, and not with `ignore_eos`.
    **dict.fromkeys(FORMS, st.none()),
    "response_format": st.none() | st.just({"type": "text"}),
    "structured_outputs": st.none() | st.just({"regex": None, "json_object": False}),
    "logit_bias": st.none()
    | st.dictionaries(st.from_regex("[0-9]{1,9}", fullmatch=True), st.floats(-100, 100)),
}


def objects(schema: Schema, form: Schema) -> st.SearchStrategy[dict[str, Any]]:
    """Of one of the forms that the schema allows; each optional member is there, or not."""
    members = {
        name: GIVEN[name] if name in GIVEN else values({**item, **form.get("properties", {}).get(name, {})})
        for name, item in schema["properties"].items()
    }
    required = {*schema.get("required", ()), *form.get("required", ())}
    return st.fixed_dictionaries(
        {name: members[name] for name in required},
        optional={name: members[name] for name in members.keys() - required},
    )


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    home = tmp_path_factory.mktemp("home")
    app = create_app(Settings(home=home, models=home / "none"), open_backend=stored().open)
    with serving_client(app) as client:
        yield client


EXAMPLES = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_every_body(client: TestClient, method: str, path: str) -> None:
    schema = OPERATIONS[method, path]["requestBody"]["content"]["application/json"]["schema"]
    promised = Draft202012Validator({**schema, "components": DOCUMENT["components"]})

    @EXAMPLES
    @given(values(schema).filter(promised.is_valid))
    def check(body: dict[str, Any]) -> None:
        answer = client.request(method, path.format(name="mini-lm", version=1, id="d-mini-lm"), json=body)
        assert answer.status_code not in (400, 422, 500), answer.text

    check()


@pytest.mark.parametrize("endpoint", QUERIES, ids=lambda endpoint: endpoint.path)
def test_every_query(client: TestClient, endpoint: Endpoint) -> None:
    assert endpoint.query is not None
    schema = DEFINITIONS[endpoint.query.__name__]

    @EXAMPLES
    @given(values(schema).filter(Draft202012Validator(schema).is_valid))
    def check(query: dict[str, Any]) -> None:
        answer = client.request(endpoint.method, endpoint.path, params=in_url(query))
        assert answer.status_code not in (400, 422, 500), answer.text

    check()


def in_url(query: Mapping[str, Any]) -> dict[str, Any]:
    """A URL cannot say null, and its booleans and objects are JSON's."""
    return {
        name: json.dumps(value) if isinstance(value, bool | dict) else value
        for name, value in query.items()
        if value is not None
    }
