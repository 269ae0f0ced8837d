"""The task APIs' answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.errors import InvalidInput
from runtime.contract import MAX_HEAD_BATCH, Operation
from tests.api.fakes import FakeBack
from tests.api.replies import refusing, scripted


def test_every_answer_says_who_answered(client: TestClient) -> None:
    for path, body, model in (
        ("generate", {"prompt": "a"}, "mini-lm"),
        ("classify", {"input": "a"}, "mini-sentiment"),
        ("infer", {"premise": "a", "hypothesis": "b"}, "mini-nli"),
        ("nlu", {"input": "a"}, "mini-nlu"),
        ("next", {"prompt": "a"}, "mini-lm"),
        ("score", {"prompt": "a", "continuations": ["b"]}, "mini-lm"),
    ):
        answer = client.post(f"/v1/{path}", json=body).json()
        assert (answer["model"], answer["version"], answer["precision"]) == (model, 1, "int8")


def test_generate(client: TestClient, back: FakeBack) -> None:
    body = {"prompt": "a b", "max_tokens": 2, "stop": [".", "!"], "seed": 1, "logprobs": 1, "echo": True}
    answer = client.post("/v1/generate", json=body).json()
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("a b a b", "length")
    assert [token["logprob"] for token in choice["logprobs"]] == [None, -0.5, -0.5]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
    assert answer["timings"] == {"queue_seconds": 0.0, "prefill_seconds": 0.1, "decode_seconds": 0.2}
    text, sent, operation = back.cluster.requests[0]
    assert (text, operation) == ("a b", Operation.GENERATE)
    assert sent["stop"] == [".", "!"]
    assert (sent["seed"], sent["logprobs"]) == (1, 1)
    assert not {"deadline_ms", "temperature"} & sent.keys()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("generate", {"prompt": ["a", "b"]}),
        ("completions", {"prompt": "a"}),
        ("embeddings", {"input": "a"}),
        ("next", {"prompt": "a"}),
        ("score", {"prompt": "a", "continuations": ["b"]}),
        ("classify", {"input": "a", "labels": ["x", "y"]}),
        ("classify", {"input": "a"}),
        ("infer", {"premise": "a", "hypothesis": "b"}),
        ("nlu", {"input": "a"}),
    ],
)
def test_text_that_is_not_trusted(
    client: TestClient, back: FakeBack, path: str, body: dict[str, Any]
) -> None:
    for special_tokens in (True, False):
        asked = {**body, "special_tokens": special_tokens}
        assert client.post(f"/v1/{path}", json=asked).status_code == 200
        reached = [sent.get("special_tokens", True) for _, sent, _ in back.cluster.requests]
        assert (reached + back.cluster.special_tokens)[-1] is special_tokens


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("generate", {"prompt": ["a", "b"]}),
        ("completions", {"prompt": "a"}),
        ("next", {"prompt": "a"}),
        ("score", {"prompt": "a", "continuations": ["b"]}),
        ("classify", {"input": "a", "labels": ["x", "y"]}),
        ("infer", {"premise": "a", "hypothesis": "b", "model": "mini-lm"}),
        ("nlu", {"input": "a", "labels": ["x", "y"]}),
    ],
)
def test_priority_and_caller_reach_the_engine(
    client: TestClient, back: FakeBack, path: str, body: dict[str, Any]
) -> None:
    assert client.post(f"/v1/{path}", json={**body, "priority": -7}).status_code == 200
    assert client.post(f"/v1/{path}", json=body, headers={"Authorization": "Bearer key"}).status_code == 200
    sent = [parameters for _, parameters, _ in back.cluster.requests]
    first, last = sent[0], sent[-1]
    assert (first["priority"], first["caller"]) == (-7, "testclient")
    assert "priority" not in last
    assert last["caller"] == "testclient 2c70e12b7a0646f9", "a digest of the key, which is no one's to read"


def test_an_asynchronous_task_shares_as_its_caller_does(client: TestClient, back: FakeBack) -> None:
    task = {"type": "generate", "parameters": {"prompt": "a", "priority": 3}}
    posted = client.post("/v1/tasks", json=task, headers={"Authorization": "Bearer key"}).json()
    while client.get(f"/v1/tasks/{posted['id']}").json()["state"] != "done":
        pass
    sent = back.cluster.requests[0][1]
    assert (sent["priority"], sent["caller"]) == (3, "testclient 2c70e12b7a0646f9")
    assert posted["caller"] == "testclient"


def test_generate_by_get_takes_the_same_fields(client: TestClient, back: FakeBack) -> None:
    query = {
        "prompt": ["a", "b"],
        "max_tokens": "1",
        "temperature": "0.5",
        "stop": ["x", "y"],
        "echo": "true",
    }
    got = client.get("/v1/generate", params=query)
    assert [choice["text"] for choice in got.json()["choices"]] == ["a a", "b a"]
    sent = back.cluster.requests[0][1]
    assert (sent["temperature"], sent["stop"]) == (0.5, ["x", "y"])
    streamed = client.get("/v1/generate", params={"prompt": "a", "stream": "true"})
    assert streamed.headers["content-type"].startswith("text/event-stream")


def test_a_version_can_be_a_number_or_an_alias(client: TestClient) -> None:
    for version in (1, "1", "latest"):
        body = {"prompt": "a", "model": "mini-lm", "version": version}
        assert client.post("/v1/generate", json=body).status_code == 200


def test_usage_and_indices_of_list_prompts(client: TestClient) -> None:
    answer = client.post("/v1/generate", json={"prompt": ["a", "b c"], "n": 2}).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 12, "total_tokens": 15}


def test_classify_by_head(client: TestClient) -> None:
    answer = client.post("/v1/classify", json={"input": ["a", "b"]}).json()
    assert len(answer["results"]) == 2
    result = answer["results"][0]
    assert (result["label"], result["method"]) == ("positive", "head")
    assert [score["label"] for score in result["scores"]] == ["positive", "negative"]


def test_a_long_list_goes_to_a_head_in_chunks(client: TestClient, back: FakeBack) -> None:
    texts = [str(number) for number in range(2 * MAX_HEAD_BATCH + 1)]
    answer = client.post("/v1/classify", json={"input": texts}).json()
    assert len(answer["results"]) == len(texts)
    assert list(map(len, back.cluster.classified)) == [MAX_HEAD_BATCH, MAX_HEAD_BATCH, 1]
    assert [text for chunk in back.cluster.classified for text in chunk] == texts


@pytest.mark.parametrize(
    ("path", "body", "tensor", "field"),
    [
        ("classify", {"input": ["a"] * MAX_HEAD_BATCH}, "text.3", "input.3"),
        ("classify", {"input": ["a"]}, "text", "input.0"),
        ("nlu", {"input": ["a", "b"]}, "text.1", "input.1"),
        ("infer", {"pairs": [{"premise": "a", "hypothesis": "b"}] * 2}, "text.1", "pairs.1.premise"),
        ("infer", {"pairs": [{"premise": "a", "hypothesis": "b"}] * 2}, "text_pair.1", "pairs.1.hypothesis"),
    ],
)
def test_a_head_blames_the_row(
    client: TestClient, back: FakeBack, path: str, body: dict[str, Any], tensor: str, field: str
) -> None:
    back.cluster.classify_error = InvalidInput.of(tensor, "600 tokens, but this model reads at most 512")
    answer = client.post(f"/v1/{path}", json=body)
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_classify_zero_shot_scores_the_labels_after_the_text(client: TestClient, back: FakeBack) -> None:
    body = {"input": "zzyy", "labels": ["zy", "ab"]}
    result = client.post("/v1/classify", json=body).json()["results"][0]
    assert (result["label"], result["method"]) == ("zy", "zero-shot")
    assert sum(score["score"] for score in result["scores"]) == pytest.approx(1)
    asked = [text for text, _, _ in back.cluster.requests]
    assert asked == ["\nTopic: ", "zzyy\nTopic: "]
    assert back.cluster.requests[0][1] == {"continuations": ["zy", "ab"], "caller": "testclient"}
    client.post("/v1/classify", json=body)
    assert len(back.cluster.requests) == 3  # the labels without text were scored already


def test_multi_label_and_template(client: TestClient, back: FakeBack) -> None:
    template = "Say: {text} This is {label}!"
    body = {"input": "zzyy", "labels": ["zy", "zz", "ab"], "multi_label": True, "template": template}
    scores = client.post("/v1/classify", json=body).json()["results"][0]["scores"]
    assert sum(score["score"] for score in scores) > 1.5
    assert all(0 <= score["score"] <= 1 for score in scores)
    text, sent, _ = back.cluster.requests[1]
    assert text == "Say: zzyy This is "
    assert sent["continuations"] == ["zy!", "zz!", "ab!"]


def test_infer_by_head_and_in_pairs(client: TestClient) -> None:
    pair = {"premise": "a", "hypothesis": "b"}
    answer = client.post("/v1/infer", json={"pairs": [pair, pair]}).json()
    assert [result["label"] for result in answer["results"]] == ["entailment", "entailment"]
    assert answer["results"][0]["method"] == "head"
    assert {score["label"] for score in answer["results"][0]["scores"]} == {
        "entailment",
        "neutral",
        "contradiction",
    }


def test_infer_and_nlu_without_heads_ask_the_language_model(client: TestClient, back: FakeBack) -> None:
    del back.cluster.live["d-mini-nli"]
    answer = client.post("/v1/infer", json={"premise": "It rains.", "hypothesis": "It is wet."}).json()
    assert answer["model"] == "mini-lm"
    assert answer["results"][0]["method"] == "zero-shot"
    assert "It rains.\nQuestion: It is wet. True, False, or Neither?\nAnswer: " in [
        text for text, _, _ in back.cluster.requests
    ]
    answer = client.post("/v1/nlu", json={"input": "play jazz", "labels": ["PlayMusic", "Book"]}).json()
    result = answer["results"][0]
    assert (answer["model"], result["method"], result["slots"]) == ("mini-lm", "zero-shot", [])
    assert result["intent"] == result["intents"][0]


def refusing_some(error: Exception, at_fault: Callable[[str], bool]) -> Any:
    """A reply that fails for the texts that are at fault."""
    refuse = refusing(error)

    def reply(text: str, parameters: Mapping[str, Any], operation: Operation) -> Any:
        return (refuse if at_fault(text) else scripted)(text, parameters, operation)

    return reply


@pytest.mark.parametrize(
    ("tensor", "body", "field"),
    [
        ("text", {"premise": "a", "hypothesis": "b"}, "premise"),
        ("text_pair", {"premise": "a", "hypothesis": "b"}, "hypothesis"),
        ("text_pair", {"pairs": [{"premise": "a", "hypothesis": "b"}]}, "pairs.0.hypothesis"),
    ],
)
def test_a_head_blames_the_callers_field(
    client: TestClient, back: FakeBack, tensor: str, body: dict[str, Any], field: str
) -> None:
    back.cluster.classify_error = InvalidInput.of(tensor, "600 tokens, but this model reads at most 512")
    answer = client.post("/v1/infer", json=body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("at_fault", "blamed", "field"),
    [
        ("", "text_input", "template"),
        ("", "continuations", "labels"),
        ("it", "text_input", "input"),
        ("it", "continuations", "input"),
    ],
)
def test_zero_shot_blames_the_callers_field(
    client: TestClient, back: FakeBack, at_fault: str, blamed: str, field: str
) -> None:
    error = InvalidInput.of(blamed, "600 tokens, but the context holds 512")
    back.cluster.reply = refusing_some(error, lambda text: at_fault in text)
    answer = client.post("/v1/classify", json={"input": "it rains", "labels": ["a", "b"]})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(("premise", "hypothesis"), [("a", "b" * 900), ("a" * 900, "b")])
def test_zero_shot_inference_blames_the_longer_text(
    client: TestClient, back: FakeBack, premise: str, hypothesis: str
) -> None:
    del back.cluster.live["d-mini-nli"]
    error = InvalidInput.of("text_input", "600 tokens, but the context holds 512")
    back.cluster.reply = refusing_some(error, lambda text: len(text) > 900)
    pair = {"premise": premise, "hypothesis": hypothesis}
    answer = client.post("/v1/infer", json={"pairs": [pair]})
    longer = "hypothesis" if len(hypothesis) > len(premise) else "premise"
    assert [error["field"] for error in answer.json()["errors"]] == [f"pairs.0.{longer}"]


def test_nlu(client: TestClient) -> None:
    result = client.post("/v1/nlu", json={"input": "play some jazz"}).json()["results"][0]
    assert result["intent"] == {"label": "PlayMusic", "score": 0.9}
    assert result["slots"] == [{"name": "genre", "value": "jazz", "start": 10, "end": 14, "score": 0.9}]


@pytest.mark.parametrize(
    ("normalize", "scores"),
    [("none", [-1.0, -4.0]), ("token", [-0.5, -2.0]), ("byte", [-1.0, -1.0]), ("pmi", [2.0, 0.0])],
)
def test_score_normalised(client: TestClient, normalize: str, scores: list[float]) -> None:
    # The fake scores -length, +2 for each letter that the prompt has.
    body = {"prompt": "a", "continuations": ["xxa", "bbbb"], "normalize": normalize, "tokens": True}
    answer = client.post("/v1/score", json=body).json()
    assert [item["logprob"] for item in answer["scores"]] == [-1.0, -4.0]
    if normalize != "byte":
        assert [item["score"] for item in answer["scores"]] == scores
    assert sum(item["probability"] for item in answer["scores"]) == pytest.approx(1)
    assert answer["best"] == 0
    assert answer["scores"][0]["tokens"][0]["text"] == "xxa"


def test_score_per_byte_and_after_no_prompt(client: TestClient) -> None:
    body = {"prompt": "", "continuations": ["é"], "normalize": "byte"}
    (score,) = client.post("/v1/score", json=body).json()["scores"]
    assert (score["num_bytes"], score["score"], score["tokens"]) == (2, -0.5, None)


def test_next(client: TestClient) -> None:
    answer = client.post("/v1/next", json={"prompt": "a", "top_k": 3}).json()
    assert [item["token_id"] for item in answer["candidates"]] == [0, 1, 2]
