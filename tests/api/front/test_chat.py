"""Conversations in OpenAI's shapes, rendered by real templates."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.config import Settings
from api.errors import from_fault
from runtime.contract import Fault, FaultCode
from tests.api.asgi import events
from tests.api.conftest import serving_client
from tests.api.fakes import FakeBack
from tests.api.replies import refusing

CHAT = "/v1/chat/completions"
TALK: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
# ChatML, with an end of text that the template names.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}{{ eos_token }}{% endif %}"
)


@pytest.fixture
def asker(client: TestClient) -> openai.OpenAI:
    return openai.OpenAI(api_key="none", base_url=f"{client.base_url}/v1", http_client=client, max_retries=0)


def sent(back: FakeBack) -> tuple[Any, dict[str, Any]]:
    prompt, parameters, _ = back.cluster.requests[-1]
    return prompt, parameters


def test_openai_s_client_gets_an_answer(asker: openai.OpenAI, back: FakeBack) -> None:
    answer = asker.chat.completions.create(model="mini-lm", messages=TALK, n=2, seed=1)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", "mini-lm")
    assert [choice.message.content for choice in answer.choices] == [" a b c"] * 2
    assert [(choice.message.role, choice.finish_reason) for choice in answer.choices] == [
        ("assistant", "length")
    ] * 2
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    prompt, parameters = sent(back)
    assert prompt == "System: Be brief.\nUser: Hi\nAssistant:"
    assert parameters["stop"] == ["\nUser:", "\nSystem:"]
    # What the context has left, as with OpenAI and vLLM.
    assert (parameters["max_tokens"], parameters["clamp_max_tokens"]) == (512, True)


def test_openai_s_client_streams(asker: openai.OpenAI) -> None:
    chunks = list(
        asker.chat.completions.create(
            model="mini-lm",
            messages=TALK,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert [delta.role for delta in deltas] == ["assistant", None, None]
    assert "".join(delta.content or "" for delta in deltas) == " a b c"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []


def test_a_stream_ends_as_openai_s_does(client: TestClient) -> None:
    found = events(client.post(CHAT, json={"messages": TALK, "stream": True}).content)
    assert found[-1] == ("message", "[DONE]")
    assert all("usage" not in data for _, data in found[:-1])


def test_the_model_s_own_template_makes_the_prompt(client: TestClient, back: FakeBack) -> None:
    back.cluster.chat["mini-lm"] = {"chat_template": CHATML, "eos_token": "</s>"}
    assert client.post(CHAT, json={"messages": TALK, "stop": "x"}).status_code == 200
    prompt, parameters = sent(back)
    start = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert prompt == start + "<|im_start|>assistant\n"
    assert parameters["stop"] == ["x"]
    client.post(CHAT, json={"messages": TALK, "add_generation_prompt": False})
    assert sent(back)[0] == start + "</s>"
    assert client.get("/tokenizer_info").json()["chat_template"] == CHATML


def test_parts_of_text_are_joined(client: TestClient, back: FakeBack) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    client.post(CHAT, json={"messages": [{"role": "user", "content": parts}]})
    assert sent(back)[0] == "User: ab\nAssistant:"


def test_log_probabilities(asker: openai.OpenAI) -> None:
    answer = asker.chat.completions.create(
        model="mini-lm",
        messages=TALK,
        logprobs=True,
        top_logprobs=1,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    first = logprobs.content[0]
    assert (first.token, first.logprob, first.bytes) == (" a", -0.5, [32, 97])
    assert [(other.token, other.logprob) for other in first.top_logprobs] == [(" z", -0.1)]


@pytest.mark.parametrize(
    ("asked", "wanted"), [({"max_tokens": 7}, 7), ({"max_completion_tokens": 8, "max_tokens": 7}, 8)]
)
def test_what_is_asked_for_is_not_cut(
    client: TestClient, back: FakeBack, asked: dict[str, int], wanted: int
) -> None:
    client.post(CHAT, json={"messages": TALK, **asked})
    assert (sent(back)[1]["max_tokens"], sent(back)[1]["clamp_max_tokens"]) == (wanted, False)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages.0.content.0.type"),
        ({"messages": TALK, "tools": [{"type": "function"}]}, "tools"),
        ({"messages": TALK, "tool_choice": "required"}, "tool_choice"),
        ({"messages": TALK, "top_logprobs": 2}, "top_logprobs"),
        ({"messages": TALK, "logprobs": 2}, "logprobs"),
        ({"messages": TALK, "max_tokens": 0}, "max_tokens"),
        ({"messages": TALK, "chat_template": "x"}, "chat_template"),
        ({"messages": TALK, "model": "mini-nli"}, "model"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(client: TestClient, body: Any, param: str) -> None:
    answer = client.post(CHAT, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_what_asks_for_nothing_passes(client: TestClient) -> None:
    body = {
        "messages": [{"role": "assistant", "content": None, "refusal": None, "tool_calls": None}, *TALK],
        "tools": [], "tool_choice": "none", "parallel_tool_calls": True, "store": False, "metadata": {},
        "response_format": {"type": "text"}, "reasoning_effort": "low", "modalities": ["text"], "audio": None,
        "chat_template_kwargs": {}, "logprobs": False, "service_tier": "auto", "user": "me",
    }  # fmt: skip
    assert client.post(CHAT, json=body).status_code == 200


def test_a_conversation_beyond_the_context_is_said_to_be(asker: openai.OpenAI, back: FakeBack) -> None:
    fault = Fault(FaultCode.CONTEXT_LENGTH, "600 tokens, but the context holds 512", "text_input")
    back.cluster.reply = refusing(from_fault(fault))
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as raised:
            asker.chat.completions.create(model="mini-lm", messages=TALK, stream=stream)
        assert (raised.value.code, raised.value.param) == ("context_length_exceeded", "messages")


def test_a_setting_is_the_template_of_models_without_one(settings: Settings, back: FakeBack) -> None:
    changed = settings.model_copy(update={"chat_template": "{{ messages[-1].content }}!"})
    with serving_client(create_app(changed, open_backend=back.open)) as client:
        client.post(CHAT, json={"messages": TALK})
    assert (sent(back)[0], sent(back)[1].get("stop")) == ("Hi!", [])
    none = settings.model_copy(update={"chat_template": ""})
    with serving_client(create_app(none, open_backend=back.open)) as client:
        answer = client.post(CHAT, json={"messages": TALK})
        assert client.get("/tokenizer_info").json()["chat_template"] is None
    assert "mini-lm has no chat template" in answer.json()["error"]["message"]


def test_what_a_template_says_of_a_conversation_is_the_caller_s_error(
    client: TestClient, back: FakeBack
) -> None:
    back.cluster.chat["mini-lm"] = {"chat_template": "{{ raise_exception('roles must alternate') }}"}
    answer = client.post(CHAT, json={"messages": TALK})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith("the chat template of mini-lm: roles must alternate")
