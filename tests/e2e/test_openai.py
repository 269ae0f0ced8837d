"""An unchanged `openai` client against the façade's OpenAI routes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import openai
import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from tests.e2e.appliance import Appliance

PROMPT = "Once upon a time there was a"
MINI_LM = Path(__file__).resolve().parents[2] / "models" / "mini-lm"


@pytest.fixture(scope="module")
def client(appliance: Appliance) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{appliance.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def test_models(client: openai.OpenAI) -> None:
    assert "mini-lm" in {model.id for model in client.models.list()}


def test_completion_and_its_stream_agree(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="mini-lm", prompt=PROMPT, max_tokens=20, temperature=0)
    pieces = client.completions.create(
        model="mini-lm",
        prompt=PROMPT,
        max_tokens=20,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = "", None
    for chunk in pieces:
        text += "".join(choice.text for choice in chunk.choices)
        usage = chunk.usage or usage
    assert text == whole.choices[0].text
    assert usage == whole.usage


def test_list_prompts_and_n(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="mini-lm", prompt=["The king", "The sea"], n=2, max_tokens=6, seed=3, temperature=1.0
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 24


def test_echo_with_logprobs_scores_the_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="mini-lm", prompt=PROMPT, max_tokens=0, echo=True, logprobs=1)
    choice = answer.choices[0]
    assert choice.text == PROMPT
    assert choice.logprobs is not None
    tokens, logprobs = choice.logprobs.tokens, choice.logprobs.token_logprobs
    offsets = choice.logprobs.text_offset
    assert tokens is not None
    assert logprobs is not None
    assert offsets is not None
    assert "".join(tokens) == PROMPT
    first, *others = cast("list[float | None]", logprobs)  # the client's types forget the first
    assert first is None
    assert all(value is not None and value <= 0 for value in others)
    assert [PROMPT[at : at + len(token)] for at, token in zip(offsets, tokens, strict=True)] == tokens


def test_a_response_format_is_followed(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"enum": ["Ann", "Tom"]},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="mini-lm",
        messages=[{"role": "user", "content": "Who is there?"}],
        response_format={"type": "json_schema", "json_schema": {"name": "who", "schema": schema}},
    )
    found = json.loads(answer.choices[0].message.content or "")
    assert found["name"] in ("Ann", "Tom")
    assert found["age"] <= 99
    assert answer.choices[0].finish_reason == "stop"
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model="mini-lm", prompt="a", extra_body={"guided_regex": "("})
    assert raised.value.param == "guided_regex"


def test_embeddings_tell_near_from_far(client: openai.OpenAI) -> None:
    texts = ["The little dog ran.", "The small dog ran.", "Parliament raised the tax on corn."]
    data = client.embeddings.create(model="mini-lm", input=texts).data
    first, near, far = (item.embedding for item in data)

    def cosine(left: list[float], right: list[float]) -> float:
        return sum(a * b for a, b in zip(left, right, strict=True))

    assert cosine(first, first) == pytest.approx(1, abs=1e-3)
    assert cosine(first, near) > cosine(first, far)


def test_errors_have_openai_s_shape(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.completions.create(model="nobody", prompt=PROMPT)
    assert "nobody" in str(unknown.value)
    with pytest.raises(openai.BadRequestError) as wrong:
        client.completions.create(model="mini-lm", prompt=PROMPT, max_tokens=100_000)
    assert wrong.value.param == "max_tokens"


def test_token_ids_score_as_an_evaluation_harness_asks(client: openai.OpenAI) -> None:
    """As lm-eval's local-completions does: a choice after its context, and a text from its start on."""
    tokenizer = Tokenizer.from_file(str(MINI_LM / "tokenizer.json"))
    model = GPT2LMHeadModel.from_pretrained(MINI_LM, dtype=torch.float32).eval()
    context = tokenizer.encode(PROMPT).ids
    rows = [
        [*context, *tokenizer.encode(" little girl named Lily.").ids],
        [model.config.eos_token_id, *tokenizer.encode(f"{PROMPT} dog. It liked to run, and Ünï.").ids],
    ]
    answer = client.completions.create(
        model="mini-lm", prompt=rows, max_tokens=1, echo=True, logprobs=1, temperature=0, seed=1234
    )
    for ids, begin, choice in zip(rows, (len(context), 1), answer.choices, strict=True):
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        given = choice.logprobs.token_logprobs[begin : len(ids)]
        exact = [float(expected[place - 1, ids[place]]) for place in range(begin, len(ids))]
        # mini-lm is served in int8, whose quality card allows 0.5 % of perplexity.
        assert sum(given) / len(given) == pytest.approx(sum(exact) / len(exact), abs=0.05)


def test_no_prompt_is_the_start_of_a_text(client: openai.OpenAI) -> None:
    prompts: list[Any] = ["", [0], openai.omit]
    answers = [
        client.completions.create(model="mini-lm", prompt=prompt, max_tokens=8, temperature=0)
        for prompt in prompts
    ]
    assert len({answer.choices[0].text for answer in answers}) == 1
    assert all(answer.usage and answer.usage.prompt_tokens == 1 for answer in answers)
