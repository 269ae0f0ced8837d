"""vLLM's small routes, as its clients ask them."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from api.config import PLAIN_TEMPLATE
from api.errors import InvalidInput
from runtime.contract import MAX_TOKENIZED
from tests.api.fakes import FakeBack
from tests.api.replies import refusing


def test_tokens_of_a_text(client: TestClient, back: FakeBack) -> None:
    answer = client.post("/tokenize", json={"model": "mini-lm", "prompt": "a bc", "add_special_tokens": True})
    assert answer.json() == {"count": 2, "max_model_len": 512, "tokens": [1, 2], "token_strs": None}
    shown = client.post("/tokenize", json={"prompt": "a bc", "return_token_strs": True}).json()
    assert shown["token_strs"] == ["a", "bc"]
    client.post("/tokenize", json={"prompt": "a", "special_tokens": False})
    assert [parameters.get("special_tokens") for _, parameters, _ in back.cluster.requests] == [
        None,
        None,
        False,
    ]


def test_text_of_tokens(client: TestClient, back: FakeBack) -> None:
    answer = client.post("/detokenize", json={"model": "mini-lm", "tokens": [7, 11]})
    assert answer.json() == {"prompt": "7 11"}
    assert back.cluster.requests[-1][0] == [7, 11]
    assert client.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}


def test_what_an_evaluation_harness_asks_of_a_tokenizer(client: TestClient) -> None:
    assert client.get("/tokenizer_info").json() == {
        "model": "mini-lm",
        "tokenizer_class": "GPT2TokenizerFast",
        "model_max_length": 512,
        "eos_token": "<|endoftext|>",
        "bos_token": "<|endoftext|>",
        "chat_template": PLAIN_TEMPLATE,
    }


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_ping_is_what_a_load_balancer_is_told(client: TestClient, back: FakeBack, method: str) -> None:
    assert client.request(method, "/ping").status_code == client.get("/health").status_code == 200
    back.cluster.ready = False
    assert client.request(method, "/ping").status_code == client.get("/health").status_code == 503


def test_the_release(client: TestClient) -> None:
    assert client.get("/version").json() == {"version": client.get("/openapi.json").json()["info"]["version"]}


def test_models_say_how_much_their_context_holds(client: TestClient) -> None:
    found = {model["id"]: model["max_model_len"] for model in client.get("/v1/models").json()["data"]}
    assert found["mini-lm"] == 512


@pytest.mark.parametrize(
    ("path", "body", "field", "status"),
    [
        ("/tokenize", {"prompt": "x" * (MAX_TOKENIZED + 1)}, "prompt", 422),
        ("/tokenize", {"prompt": "x", "model": "mini-nli"}, "model", 422),
        ("/tokenize", {"messages": []}, "prompt", 422),
        ("/detokenize", {"tokens": [-1]}, "tokens.0", 422),
        ("/detokenize", {"tokens": "a"}, "tokens", 422),
        ("/tokenize", {"prompt": "x", "model": "nope"}, "model", 404),
    ],
)
def test_what_is_refused(client: TestClient, path: str, body: object, field: str, status: int) -> None:
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)


def test_a_token_that_is_none_is_named_by_its_place(client: TestClient, back: FakeBack) -> None:
    back.cluster.reply = refusing(InvalidInput.of("prompt_token_ids.1", "9 is no token of this model"))
    answer = client.post("/detokenize", json={"tokens": [1, 9]})
    assert [error["field"] for error in answer.json()["errors"]] == ["tokens.1"]
