"""Whatever comes in, the answer is a 4xx that names the field, and the server goes on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.config import Settings
from api.front.body import MAX_MEMBERS
from api.front.validation import MOST_ERRORS
from tests.api.conftest import serving_client
from tests.api.fakes import FakeBack

GENERATE = "/v1/generate"


@pytest.fixture(scope="module")
def back() -> FakeBack:
    return FakeBack.make()


@pytest.fixture(scope="module")
def client(back: FakeBack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One for all: bad input must leave nothing behind that the next request would notice."""
    home = tmp_path_factory.mktemp("home")
    with serving_client(
        create_app(Settings(home=home, models=home / "none"), open_backend=back.open)
    ) as client:
        yield client


FIELDS: list[tuple[str, Any, str, str]] = [
    (GENERATE, {}, "prompt", "missing"),
    (GENERATE, {"prompt": None}, "prompt", "a string is needed, not null"),
    (GENERATE, {"prompt": 5}, "prompt", "a string is needed, not 5"),
    (GENERATE, {"prompt": []}, "prompt", "at least 1 items, not 0"),
    (GENERATE, {"prompt": [1, -1]}, "prompt.1", "must be at least 0, not -1"),
    (GENERATE, {"prompt": [[1], [2.5]]}, "prompt.1.0", "a whole number is needed, not 2.5"),
    (GENERATE, {"prompt": [[1], []]}, "prompt.1", "at least 1 items, not 0"),
    (GENERATE, {"prompt": [[1], "a"]}, "prompt.1", "a list is needed, not 'a'"),
    (GENERATE, {"prompt": ["a", 3]}, "prompt.1", "a string is needed, not 3"),
    (GENERATE, {"prompt": [["a"]]}, "prompt.0.0", "a whole number is needed, not 'a'"),
    (GENERATE, {"prompt": {"text": "a"}}, "prompt", "a string is needed, not an object"),
    (GENERATE, {"prompt": ["a"] * 2049}, "prompt", "at most 2048 items, not 2049"),
    (GENERATE, {"prompt": ["a"] * 1025, "n": 2}, "n", "2050 choices over all prompts; at most 2048"),
    (GENERATE, {"prompt": "a", "max_tokens": -1}, "max_tokens", "must be at least 0, not -1"),
    (GENERATE, {"prompt": "a", "max_tokens": 0}, "max_tokens", "only with echo"),
    (GENERATE, {"prompt": "a", "max_tokens": 10**30}, "max_tokens", "must be at most 2147483647"),
    (GENERATE, {"prompt": "a", "max_tokens": 1.5}, "max_tokens", "a whole number is needed, not 1.5"),
    (GENERATE, {"prompt": "a", "max_tokens": "8"}, "max_tokens", "a whole number is needed, not '8'"),
    (GENERATE, {"prompt": "a", "max_tokens": True}, "max_tokens", "a whole number is needed, not true"),
    (GENERATE, {"prompt": "a", "temperature": -0.1}, "temperature", "must be at least 0, not -0.1"),
    (GENERATE, {"prompt": "a", "temperature": None}, "temperature", "a number is needed, not null"),
    (GENERATE, {"prompt": "a", "temperature": "hot"}, "temperature", "a number is needed, not 'hot'"),
    (GENERATE, {"prompt": "a", "top_p": -0.1}, "top_p", "must be at least 0, not -0.1"),
    (GENERATE, {"prompt": "a", "n": 3, "best_of": 2}, "best_of", "must be at least n (3), not 2"),
    (GENERATE, {"prompt": "a", "stream": True, "best_of": 2}, "best_of", "a stream has n (1) choices"),
    (GENERATE, {"prompt": "a", "logit_bias": {"5": 101}}, "logit_bias.5", "must be at most 100, not 101"),
    (GENERATE, {"prompt": "a", "logit_bias": {"the": 1}}, "logit_bias.the", "String should match pattern"),
    (GENERATE, {"prompt": "a", "suffix": "b"}, "suffix", "'b' is not supported"),
    (GENERATE, {"prompt": "a", "top_p": 1.01}, "top_p", "must be at most 1, not 1.01"),
    (GENERATE, {"prompt": "a", "top_k": -2}, "top_k", "must be at least -1, not -2"),
    (GENERATE, {"prompt": "a", "min_p": 2}, "min_p", "must be at most 1, not 2"),
    (
        GENERATE,
        {"prompt": "a", "repetition_penalty": 0},
        "repetition_penalty",
        "must be at least 0.01, not 0",
    ),
    (GENERATE, {"prompt": "a", "presence_penalty": 3}, "presence_penalty", "must be at most 2, not 3"),
    (GENERATE, {"prompt": "a", "frequency_penalty": -3}, "frequency_penalty", "must be at least -2, not -3"),
    (GENERATE, {"prompt": "a", "stop": ["a"] * 17}, "stop", "at most 16 items, not 17"),
    (GENERATE, {"prompt": "a", "stop": "x" * 300}, "stop", "at most 256 characters, not 300"),
    (GENERATE, {"prompt": "a", "seed": -1}, "seed", "must be at least 0, not -1"),
    (GENERATE, {"prompt": "a", "n": 0}, "n", "must be at least 1, not 0"),
    (GENERATE, {"prompt": "a", "n": 17}, "n", "must be at most 16, not 17"),
    (GENERATE, {"prompt": "a", "logprobs": 21}, "logprobs", "must be at most 20, not 21"),
    (GENERATE, {"prompt": "a", "echo": 1}, "echo", "true or false is needed, not 1"),
    (GENERATE, {"prompt": "a", "stream": "yes"}, "stream", "true or false is needed, not 'yes'"),
    (GENERATE, {"prompt": "a", "tempreature": 1}, "tempreature", "did you mean temperature?"),
    (GENERATE, {"prompt": "a", "zzz": 1}, "zzz", "unknown field"),
    (GENERATE, {"prompt": "a", "model": ""}, "model", "must not be empty"),
    (GENERATE, {"prompt": "a", "model": 1}, "model", "a string is needed, not 1"),
    (GENERATE, {"prompt": "a", "version": 0}, "version", "must be at least 1, not 0"),
    (GENERATE, {"prompt": "a", "version": 1.5}, "version", "a string is needed, not 1.5"),
    (GENERATE, {"prompt": "a", "deadline_ms": 0}, "deadline_ms", "must be at least 1, not 0"),
    (GENERATE, {"prompt": "a", "priority": -101}, "priority", "must be at least -100, not -101"),
    (GENERATE, {"prompt": "a", "priority": 1.5}, "priority", "a whole number is needed, not 1.5"),
    ("/v1/score", {"prompt": "a", "continuations": ["b"], "priority": 101}, "priority", "at most 100"),
    (GENERATE, {"prompt": "a", "caller": "me"}, "caller", "unknown field"),
    (GENERATE, [], "request", "an object is needed, not a list"),
    (GENERATE, "prompt", "request", "an object is needed, not 'prompt'"),
    ("/v1/classify", {"input": ["a", 1]}, "input.1", "a string is needed, not 1"),
    ("/v1/classify", {"input": "a", "labels": ["x"]}, "labels", "at least 2 items, not 1"),
    ("/v1/classify", {"input": "a", "labels": ["x", "x"]}, "labels", "'x' is given twice"),
    ("/v1/classify", {"input": "a", "labels": ["x", ""]}, "labels.1", "must not be empty"),
    ("/v1/classify", {"input": "a", "multi_label": True}, "multi_label", "only together with labels"),
    ("/v1/classify", {"input": "a", "labels": ["x", "y"], "template": "{label}"}, "template", "{text}"),
    ("/v1/classify", {"input": "a", "labels": ["x", "y"], "template": "{label}{text}"}, "template", "before"),
    ("/v1/classify", {"input": "a", "labels": ["x", "y"], "model": "mini-nli"}, "labels", "has its own"),
    ("/v1/classify", {"input": "a", "model": "mini-lm"}, "labels", "give at least 2"),
    ("/v1/classify", {"input": "a", "model": "mini-nlu"}, "model", "of kind nlu"),
    ("/v1/infer", {"premise": "a"}, "hypothesis", "missing"),
    ("/v1/infer", {"hypothesis": "a"}, "premise", "missing"),
    ("/v1/infer", {"pairs": []}, "pairs", "at least 1 items"),
    ("/v1/infer", {"pairs": [{"premise": "a"}]}, "pairs.0.hypothesis", "missing"),
    ("/v1/infer", {"pairs": [{"premise": "a", "hypothesis": "b"}], "premise": "a"}, "pairs", "either"),
    ("/v1/infer", {"premise": "a", "hypothesis": "b", "model": "mini-sentiment"}, "model", "entailment"),
    ("/v1/nlu", {"input": None}, "input", "a string is needed, not null"),
    ("/v1/nlu", {"input": "a", "model": "mini-lm"}, "labels", "without trained labels"),
    ("/v1/next", {"prompt": "a", "top_k": 0}, "top_k", "must be at least 1, not 0"),
    ("/v1/next", {"prompt": ["a"]}, "prompt.0", "a whole number is needed, not 'a'"),
    ("/v1/score", {"prompt": "a", "continuations": []}, "continuations", "at least 1 items"),
    ("/v1/score", {"prompt": "a", "continuations": "b"}, "continuations", "a list is needed, not 'b'"),
    ("/v1/score", {"prompt": "a", "continuations": ["b"], "normalize": "max"}, "normalize", "not 'max'"),
    ("/v1/deployments", {"model": "mini-lm", "precision": "fp64"}, "precision", "not 'fp64'"),
    ("/v1/deployments", {"model": "mini-lm", "replicas": 0}, "replicas", "must be at least 1, not 0"),
    ("/v1/deployments", {"model": "mini-lm", "traffic_weight": 101}, "traffic_weight", "at most 100"),
    ("/v1/tasks", {"parameters": {}}, "type", "missing"),
    ("/v1/tasks", {"type": "divine", "parameters": {}}, "type", "not one of generate, classify"),
    ("/v1/tasks", {"type": "generate"}, "parameters", "missing"),
    (
        "/v1/tasks",
        {"type": "nlu", "parameters": {"input": ""}},
        "parameters.input",
        "must not be empty",
    ),
    ("/v1/tasks", {"type": "nlu", "parameters": {"input": ["a", 2]}}, "parameters.input.1", "not 2"),
]


@pytest.mark.parametrize(("path", "body", "field", "said"), FIELDS)
def test_the_problem_names_field_value_and_limit(
    client: TestClient, back: FakeBack, path: str, body: Any, field: str, said: str
) -> None:
    before = len(back.cluster.requests)
    answer = client.post(path, json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["errors"][0]["field"] == field
    assert said in problem["errors"][0]["message"]
    assert problem["instance"] == path
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert len(back.cluster.requests) == before


def test_several_faults_are_told_at_once(client: TestClient) -> None:
    problem = client.post(GENERATE, json={"prompt": 1, "n": 0, "x": 1}).json()
    assert {error["field"] for error in problem["errors"]} == {"prompt", "n", "x"}


@pytest.mark.parametrize(
    ("content", "status", "slug"),
    [
        (b'{"prompt": "a", "temperature": NaN}', 400, "bad-request"),
        (b'{"prompt": "a", "temperature": 1e999}', 422, "invalid-input"),
        (b'{"prompt": "\xff\xfe"}', 400, "bad-request"),
        (b'{"prompt": "a", "prompt": "b"}', 400, "bad-request"),
        (b'{"prompt": "\\ud800"}', 400, "bad-request"),
        (b'{"prompt": ', 400, "bad-request"),
        (b"", 400, "bad-request"),
        (b"null", 422, "invalid-input"),
        (b"[" * 10_000, 400, "bad-request"),
        (b'{"prompt": "' + b"a" * 10_000_000 + b'"}', 413, "too-large"),
    ],
)
def test_bodies_that_cannot_be_read(client: TestClient, content: bytes, status: int, slug: str) -> None:
    answer = client.post(GENERATE, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.json()["type"] == f"/docs#{slug}"
    assert client.post(GENERATE, json={"prompt": "a"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json", "content-encoding": "zstd"},
    ],
)
def test_other_media_types_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post(GENERATE, content=b'{"prompt": "a"}', headers=headers)
    assert answer.status_code == 415
    assert answer.json()["type"] == "/docs#wrong-media-type"


@pytest.mark.parametrize("header", ["application/json; charset=UTF-8", "application/vnd.x+json", None])
def test_json_by_other_names_is_read(client: TestClient, header: str | None) -> None:
    headers = {"content-type": header} if header else {}
    assert client.post(GENERATE, content=b'{"prompt": "a"}', headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "max_tokens": "many"}, "max_tokens"),
        ({"prompt": "a", "temperature": "nan"}, "temperature"),
        ({"prompt": "a", "stream": "perhaps"}, "stream"),
        ({"prompt": "a", "max_tokens": ["1", "2"]}, "max_tokens"),
        ({"prompt": "a", "extra": "1"}, "extra"),
    ],
)
def test_queries_are_checked_like_bodies(client: TestClient, query: dict[str, Any], field: str) -> None:
    answer = client.get(GENERATE, params=query)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


@pytest.mark.parametrize("query", ["prompt=a%ffb", "prompt=%C3", "prompt=a&model=%e2%82"])
def test_queries_that_are_not_utf_8_are_refused(client: TestClient, query: str) -> None:
    answer = client.get(f"{GENERATE}?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == query.rpartition("&")[2].partition("=")[0]
    assert "not UTF-8: byte 0x" in answer.json()["detail"]


def test_text_in_a_query_may_be_any(client: TestClient, back: FakeBack) -> None:
    assert client.get(GENERATE, params={"prompt": "naïve 😀 + %ff"}).status_code == 200
    assert back.cluster.requests[-1][0] == "naïve 😀 + %ff"


def test_a_body_full_of_faults_gets_a_short_answer(client: TestClient) -> None:
    answer = client.post(GENERATE, json={f"field{number}": 0 for number in range(MAX_MEMBERS)})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == MOST_ERRORS


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (GENERATE, {f"field{number}": 0 for number in range(70_000)}, "70000 members, but at most 1000"),
        ("/v1/infer", {"pairs": [{f"{number}": 0 for number in range(999)}] * 80}, "pairs.0"),
        (GENERATE, {"prompt": [0.5] * 150_000}, "prompt.0"),
        (GENERATE, {"prompt": "a", "stop": [""] * 150_000}, "stop"),
        (GENERATE, {"prompt": [[]] * 200_000}, "more than 4096 arrays and objects"),
        (GENERATE, {"prompt": "a", "p" * 900_000: 0}, "unknown field"),
        (GENERATE, {f"{number}" * 5000: 0 for number in range(10, 80)}, "unknown field"),
        ("/v1/classify", {"input": "a", "labels": ["x" * 400_000] * 2}, "labels"),
    ],
)
def test_faults_without_number_are_not_all_counted(
    client: TestClient, path: str, body: Any, said: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code in (400, 422)
    assert said in answer.json()["detail"]
    assert len(answer.content) < 64_000


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": "a", "best_of": 1, "n": 2}, "best_of"),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"50256": -101}}, "logit_bias.50256"),
        ("/v1/completions", {"prompt": "a", "use_beam_search": True}, "use_beam_search"),
        ("/v1/completions", {"prompt": [1, -2, 3]}, "prompt.1"),
        ("/v1/completions", {"prompt": [[1, 2], []]}, "prompt.1"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ("/v1/completions", {"prompt": "a", "temperature": 3}, "temperature"),
        ("/v1/completions", {"prompt": "a", "stream_options": {"include": 1}}, "stream_options.include"),
        ("/v1/completions", {"prompt": "a", "functions": [{"name": "f"}]}, "functions"),
        ("/v1/embeddings", {"input": "a", "dimensions": 8}, "dimensions"),
        ("/v1/embeddings", {"input": [1, "a"]}, "input.1"),
        ("/v1/embeddings", {"input": ""}, "input"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_openai_routes_answer_400_with_param(client: TestClient, path: str, body: Any, param: str) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/completions", GENERATE])
def test_what_changes_no_answer_passes(client: TestClient, path: str) -> None:
    """What OpenAI's and vLLM's clients send along; the same natively (test_parsing.py)."""
    body = {
        "prompt": "a", "best_of": 1, "suffix": "", "logit_bias": {}, "min_tokens": 0, "top_p": 0,
        "max_tokens": 16.0, "stop": [""], "user": "me", "store": True, "metadata": {"a": "b"},
        "service_tier": "auto", "skip_special_tokens": True, "prompt_logprobs": None,
        "use_beam_search": False, "add_special_tokens": True, "response_format": {"type": "text"},
        "guided_json": None,
    }  # fmt: skip
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"] == " a b c"


GRAMMARS: list[dict[str, Any]] = [
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array"}}}},
    {"structured_outputs": {"regex": "a+"}},
    {"guided_json": {"type": "object", "properties": {"b": {}, "a": {}}}},
    {"guided_json": '{"type": "integer"}'},
    {"guided_regex": "a+"},
    {"guided_choice": ["a", "b"]},
    {"guided_grammar": 'start: "a"'},
]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", GENERATE])
@pytest.mark.parametrize("asked", GRAMMARS)
def test_a_grammar_reaches_the_engine_as_it_was_asked_for(
    client: TestClient, back: FakeBack, path: str, asked: dict[str, Any]
) -> None:
    prompt = {"messages": [{"role": "user", "content": "a"}]} if "chat" in path else {"prompt": "a"}
    answer = client.post(path, json={**prompt, **asked})
    assert answer.status_code == 200, answer.text
    ((name, value),) = asked.items()
    sent = back.cluster.requests[-1][1]
    assert json.dumps(sent[name]) == json.dumps(value)


def test_a_grammar_may_stand_in_a_url(client: TestClient) -> None:
    given: list[dict[str, Any]] = [
        {"response_format": '{"type": "json_object"}'}, {"structured_outputs": '{"regex": "a"}'},
        {"guided_choice": "a"}, {"guided_choice": ["a", "b"]}, {"guided_regex": "a+"},
    ]  # fmt: skip
    for query in given:
        assert client.get(GENERATE, params={"prompt": "a", **query}).status_code == 200


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": "json_object"}, "response_format"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_regex": "a" * 40_000}, "guided_regex"),
        ({"guided_choice": ["a"], "ignore_eos": True}, "ignore_eos"),
    ],
)
def test_a_grammar_that_is_none_is_named(client: TestClient, asked: dict[str, Any], param: str) -> None:
    answer = client.post("/v1/completions", json={"prompt": "a", **asked})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    answer = client.post(GENERATE, json={"prompt": "a", **asked})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == param


def test_a_null_is_the_default_of_openai_s_routes(client: TestClient) -> None:
    body = {"prompt": None, "n": None, "stop": None, "best_of": None, "logit_bias": None, "suffix": None}
    assert client.post("/v1/completions", json=body).status_code == 200


@pytest.mark.parametrize("given", ["0", "-5", "soon", "1.5", "99999999999", "010000000000", "१०"])
def test_a_deadline_header_that_is_none(client: TestClient, given: str) -> None:
    answer = client.post(GENERATE, json={"prompt": "a"}, headers={b"X-Deadline-Ms": given.encode()})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "X-Deadline-Ms"


@pytest.mark.parametrize(
    "path",
    ["/{}", "/v1/models/{}", "/v1/models/mini-lm/versions/{}", "/v1/tasks/{}", "/v1/files/{}/content"],
)
def test_a_name_that_is_too_long_is_not_repeated(client: TestClient, path: str) -> None:
    answer = client.get(path.format("n" * 9000))
    assert answer.status_code == 404
    assert b"n" * 100 in answer.content
    assert len(answer.content) < 2000


def test_a_body_may_be_in_gzip(client: TestClient) -> None:
    plain = json.dumps({"prompt": "a", "max_tokens": 2}).encode()
    for packed in (gzip.compress(plain), gzip.compress(plain[:9]) + gzip.compress(plain[9:])):
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        answer = client.post(GENERATE, content=packed, headers=headers)
        assert answer.json()["choices"][0]["text"] == " a b"


@pytest.mark.parametrize(
    ("encoding", "body", "status", "said"),
    [
        ("gzip", b'{"prompt": "a"}', 400, "is not in gzip"),
        ("gzip", gzip.compress(b'{"prompt": "a"}')[:-4], 400, "ends amid its gzip"),
        ("gzip", gzip.compress(b" " * 64 * 1024**2), 413, "more than 2097152 bytes"),
        ("br", b"{}", 415, "'br'; send gzip"),
        ("gzip, gzip", b"{}", 415, "send gzip"),
    ],
)
def test_a_packed_body_that_cannot_be_read(
    client: TestClient, encoding: str, body: bytes, status: int, said: str
) -> None:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = client.post(GENERATE, content=body, headers=headers)
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True)
    assert answer.headers.get("accept-encoding") == ("gzip" if status == 415 else None)
