"""OpenAI's shapes, as its own client reads them."""

from __future__ import annotations

import asyncio
import struct
from base64 import b64decode
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai._models import FinalRequestOptions
from starlette.testclient import TestClient

from api.app import create_app
from api.config import Settings
from api.errors import from_fault
from runtime.contract import Fault, FaultCode, FinishReason
from runtime.messages import (
    Answer,
    Choice,
    Embedded,
    Generated,
    ScoredToken,
    Timings,
    TokenLogprob,
    Usage,
)
from tests.api.asgi import events
from tests.api.conftest import serving_client
from tests.api.fakes import FakeBack
from tests.api.replies import refusing

COMPLETIONS = "/v1/completions"


def test_completion(client: TestClient) -> None:
    answer = client.post(COMPLETIONS, json={"model": "mini-lm", "prompt": ["a", "b"], "n": 2}).json()
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 12, "total_tokens": 14}
    assert answer["system_fingerprint"] == "mini-lm-1-int8"


def test_echo_with_logprobs_has_parallel_lists(client: TestClient) -> None:
    body = {"prompt": "xy", "echo": True, "logprobs": 1, "max_tokens": 2}
    (choice,) = client.post(COMPLETIONS, json=body).json()["choices"]
    assert choice["text"] == "xy a b"
    assert choice["logprobs"] == {
        "tokens": ["xy", " a", " b"],
        "token_logprobs": [None, -0.5, -0.5],
        "top_logprobs": [None, {" z": -0.1, " a": -0.5}, {" z": -0.1, " b": -0.5}],
        "text_offset": [0, 2, 4],
    }


def test_alternatives_of_one_text_are_all_there(client: TestClient, back: FakeBack) -> None:
    top = tuple(
        ScoredToken(number, text, -float(number)) for number, text in enumerate(("a", "b", "a", "c", "b"))
    )
    choice = Choice(0, "b", [4], [TokenLogprob(4, "b", -4.0, top)], FinishReason.LENGTH)

    async def reply(*_: Any) -> AsyncIterator[Answer]:
        yield Generated(1, [choice], Usage.of(1, 1), Timings(0, 0, 0))

    back.cluster.reply = reply
    (found,) = client.post(COMPLETIONS, json={"prompt": "a", "logprobs": 5}).json()["choices"]
    assert found["logprobs"]["top_logprobs"] == [
        {"b": -4.0, "a": 0.0, "token_id:1": -1.0, "token_id:2": -2.0, "c": -3.0}
    ]


UNSERVED = [
    ("POST", "/responses"), ("POST", "/moderations"), ("POST", "/images/generations"), ("GET", "/engines"),
    ("POST", "/audio/speech"), ("GET", "/fine_tuning/jobs"), ("POST", "/assistants"), ("GET", "/skills"),
    ("GET", "/chat/completions/chatcmpl-1"), ("POST", "/realtime/sessions"), ("POST", "/threads/runs"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), UNSERVED)
def test_what_is_not_served_of_openai_is_said_in_its_shape(
    client: TestClient, method: str, path: str
) -> None:
    asker = openai.OpenAI(api_key="none", base_url=f"{client.base_url}/v1", http_client=client, max_retries=0)
    with pytest.raises(
        openai.NotFoundError, match="of OpenAI's API this server has /v1/completions"
    ) as raised:
        asker.request(object, FinalRequestOptions(method=method, url=path, json_data={}))
    assert (raised.value.type, raised.value.code) == ("invalid_request_error", "not_found")


def test_streamed_offsets_go_on(client: TestClient) -> None:
    body = {"prompt": "xy", "echo": True, "logprobs": 0, "stream": True}
    found = [data for _, data in events(client.post(COMPLETIONS, json=body).content)][:-1]
    offsets = [offset for data in found for offset in data["choices"][0]["logprobs"]["text_offset"]]
    assert offsets == [0, 2, 4, 6]


@pytest.mark.parametrize("include_usage", [False, True])
def test_stream(client: TestClient, include_usage: bool) -> None:
    body = {"prompt": "a", "stream": True, "stream_options": {"include_usage": include_usage}}
    found = events(client.post(COMPLETIONS, json=body).content)
    assert found[-1] == ("message", "[DONE]")
    chunks = [data for _, data in found[:-1]]
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == " a b c"
    if include_usage:
        assert (chunks[-1]["choices"], chunks[-1]["usage"]["total_tokens"]) == ([], 4)
        assert all(chunk["usage"] is None for chunk in chunks[:-1])
    else:
        assert all("usage" not in chunk for chunk in chunks)


@pytest.mark.parametrize("given", [{}, {"max_tokens": None}])
def test_the_default_is_openai_s_16_tokens(client: TestClient, given: dict[str, None]) -> None:
    client.post(COMPLETIONS, json={"prompt": "a", **given})
    task = client.get("/v1/tasks").json()["data"][0]
    assert task["parameters"]["max_tokens"] == 16


@pytest.mark.parametrize(
    ("given", "clamped"), [({}, True), ({"max_tokens": None}, True), ({"max_tokens": 16}, None)]
)
def test_only_a_default_is_cut_to_what_the_context_has_left(
    client: TestClient, back: FakeBack, given: dict[str, Any], clamped: bool | None
) -> None:
    client.post(COMPLETIONS, json={"prompt": "a", **given})
    _, sent, _ = back.cluster.requests[-1]
    assert (sent["max_tokens"], sent.get("clamp_max_tokens") or None) == (16, clamped)


@pytest.mark.parametrize("path", [COMPLETIONS, "/v1/generate"])
def test_a_setting_cuts_what_is_asked(settings: Settings, back: FakeBack, path: str) -> None:
    clamping = settings.model_copy(update={"clamp_max_tokens": True})
    with serving_client(create_app(clamping, open_backend=back.open)) as client:
        assert client.post(path, json={"prompt": "a", "max_tokens": 2048}).status_code == 200
    _, sent, _ = back.cluster.requests[-1]
    assert (sent["max_tokens"], sent["clamp_max_tokens"]) == (2048, True)


@pytest.mark.parametrize("field", ["text_input", "max_tokens"])
def test_openai_s_client_is_told_that_the_context_is_exceeded(
    client: TestClient, back: FakeBack, field: str
) -> None:
    fault = Fault(
        FaultCode.CONTEXT_LENGTH, "600 tokens, but this model's maximum context length is 512", field
    )
    back.cluster.reply = refusing(from_fault(fault))
    asker = openai.OpenAI(api_key="none", base_url=f"{client.base_url}/v1", http_client=client, max_retries=0)
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512") as raised:
        asker.completions.create(model="mini-lm", prompt="a")
    assert raised.value.code == "context_length_exceeded"
    assert raised.value.param == {"text_input": "prompt"}.get(field, field)


@pytest.mark.parametrize(("given", "count"), [("one text", 1), (["a", "b", "c"], 3)])
def test_embeddings(client: TestClient, given: object, count: int) -> None:
    answer = client.post("/v1/embeddings", json={"input": given}).json()
    assert [item["index"] for item in answer["data"]] == list(range(count))
    assert answer["data"][0]["embedding"] == [0.6, 0.8]
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("item", ["a b", [1, 2]])
def test_a_list_of_2048_is_answered_in_order_a_few_requests_at_a_time(
    client: TestClient, back: FakeBack, settings: Settings, item: object
) -> None:
    """As the libraries of retrieval send them: they count on OpenAI's limit."""
    most = under_way = 0

    async def counted(text: str, *_: Any) -> AsyncIterator[Answer]:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        yield Embedded([float(len(text)), 0.0], Usage.of(1))

    back.cluster.reply = counted
    inputs = [item, "abc" if isinstance(item, str) else [1, 2, 3]] * 1024
    answer = client.post("/v1/embeddings", json={"input": inputs}).json()
    vectors = [row["embedding"][0] for row in answer["data"]]
    assert [row["index"] for row in answer["data"]] == list(range(2048))
    assert vectors == vectors[:2] * 1024
    assert 1 < most <= settings.fan_out


def test_embeddings_in_base64(client: TestClient) -> None:
    answer = client.post("/v1/embeddings", json={"input": "a", "encoding_format": "base64"}).json()
    numbers = struct.unpack("<2f", b64decode(answer["data"][0]["embedding"]))
    assert numbers == pytest.approx((0.6, 0.8))


def test_models_are_in_both_shapes(client: TestClient) -> None:
    answer = client.get("/v1/models").json()
    assert answer["object"] == "list"
    model = next(item for item in answer["data"] if item["id"] == "mini-nli")
    assert (model["object"], model["owned_by"]) == ("model", "lmaas")
    assert isinstance(model["created"], int)
    assert (model["kind"], model["versions"], model["serving"]) == ("classifier", [1], ["1 int8"])


def test_openai_s_client_is_told_that_a_model_is_not_there(client: TestClient) -> None:
    asker = openai.OpenAI(api_key="none", base_url=f"{client.base_url}/v1", http_client=client, max_retries=0)
    assert asker.models.retrieve("mini-lm").id == "mini-lm"
    with pytest.raises(openai.NotFoundError, match="no model 'nope'") as raised:
        asker.models.retrieve("nope")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    answer = client.get("/v1/models/nope")
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["detail"]) == (404, "no model 'nope'")
    assert problem["errors"] == [{"field": "model", "message": "no model 'nope'"}]


@pytest.mark.parametrize("base", ["", "/v1/nowhere", "/v2"])
def test_openai_s_client_is_told_that_a_route_is_not_there(client: TestClient, base: str) -> None:
    url = f"{client.base_url}{base}"
    asker = openai.OpenAI(api_key="none", base_url=url, http_client=client, max_retries=0)
    with pytest.raises(openai.NotFoundError, match=f"no route {base}/completions") as raised:
        asker.completions.create(model="mini-lm", prompt="a")
    assert isinstance(raised.value.body, dict)
    assert {"message", "type", "param", "code"} <= set(raised.value.body)


def test_errors_have_openai_s_shape(client: TestClient) -> None:
    answer = client.post(COMPLETIONS, json={"prompt": "a", "model": "absent"})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["error"] == {
        "message": "no model 'absent' is deployed",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    assert answer.json()["detail"] == "no model 'absent' is deployed"
    assert client.get(COMPLETIONS).json()["error"]["code"] == "method_not_allowed"
    assert client.post(COMPLETIONS, content=b"{").json()["error"]["type"] == "invalid_request_error"
