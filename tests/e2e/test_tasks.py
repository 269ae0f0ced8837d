"""The four task APIs, `next` and `score`, over real HTTP against the real Triton with the bundled models."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.e2e.appliance import Appliance

PROMPT = "Once upon a time there was a"


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data:"):
            yield json.loads(line.removeprefix("data:"))


def streamed_text(appliance: Appliance, body: dict[str, Any]) -> tuple[str, str, int]:
    """Text, finish reason and number of events of one streamed generation."""
    text, reason, count = "", "", 0
    with httpx.stream(
        "POST", f"{appliance.url}/v1/generate", json={**body, "stream": True}, timeout=120
    ) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        for event in events(response):
            count += 1
            for choice in event["choices"]:
                text += choice["text"]
                reason = choice["finish_reason"] or reason
    return text, reason, count


def test_generate_writes_on_and_says_who_answered(appliance: Appliance) -> None:
    answer = appliance.post("/v1/generate", {"prompt": PROMPT, "max_tokens": 24, "temperature": 0})
    assert answer["model"] == "mini-lm"
    assert answer["version"] == 1
    assert answer["precision"] in ("int8", "fp32")
    assert answer["usage"]["completion_tokens"] <= 24
    choice = answer["choices"][0]
    assert choice["finish_reason"] in ("length", "stop")
    assert choice["text"].isascii()
    assert len(choice["text"].split()) > 8


def test_get_generates_too(appliance: Appliance) -> None:
    query: dict[str, str | int] = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    got = appliance.http.get("/v1/generate", params=query).json()
    assert got["choices"] == appliance.post("/v1/generate", query)["choices"]


def test_a_stream_tells_the_same_in_pieces(appliance: Appliance) -> None:
    # Tokens that become ready while one is sent share a piece: of a short answer most may.
    body = {"prompt": PROMPT, "max_tokens": 400, "temperature": 0, "ignore_eos": True}
    whole = appliance.post("/v1/generate", body)["choices"][0]
    text, reason, count = streamed_text(appliance, body)
    assert (text, reason) == (whole["text"], whole["finish_reason"])
    assert count > 3


def test_32_streams_at_once_tell_what_each_tells_alone(appliance: Appliance) -> None:
    bodies = [
        {"prompt": f"{PROMPT} {name}", "max_tokens": 48, "temperature": 0.8, "seed": seed}
        for seed, name in enumerate(["girl", "dragon", "king", "little fox"] * 8)
    ]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda body: streamed_text(appliance, body), bodies))
    alone = [appliance.post("/v1/generate", body)["choices"][0] for body in bodies[::5]]
    assert [text for text, _, _ in together[::5]] == [choice["text"] for choice in alone]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slots(appliance: Appliance, stream: bool) -> None:
    def cancelled() -> float:
        return appliance.engine_metric("lmaas_engine_sequences_finished_total", "mini-lm", reason="cancelled")

    before = cancelled()
    # Seconds of work, so that the client leaves before its end.
    body = {
        "prompt": [PROMPT] * 8,
        "max_tokens": 480,
        "temperature": 1,
        "n": 16,
        "ignore_eos": True,
        "stream": stream,
    }
    with (
        suppress(httpx.ReadTimeout),
        httpx.stream("POST", f"{appliance.url}/v1/generate", json=body, timeout=0.5) as response,
    ):
        next(events(response))
    appliance.wait_for(lambda: cancelled() > before, "the engine cancelled the sequences")
    appliance.wait_for(
        lambda: appliance.engine_metric("lmaas_engine_running", "mini-lm") == 0, "its slots are free"
    )
    newest = appliance.http.get("/v1/tasks", params={"type": "generate", "limit": 1}).json()["data"][0]
    assert newest["state"] == "cancelled"


@pytest.mark.parametrize(("begin", "length"), [(9, 3), (20, 11), (31, 1)])
def test_no_part_of_a_stop_string_leaks(appliance: Appliance, begin: int, length: int) -> None:
    body = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    whole = appliance.post("/v1/generate", body)["choices"][0]["text"]
    stop = whole[begin : begin + length]
    text, reason, _ = streamed_text(appliance, {**body, "stop": stop})
    assert (text, reason) == (whole[: whole.index(stop)], "stop")


def test_n_and_seed_give_distinct_and_repeatable_choices(appliance: Appliance) -> None:
    body = {"prompt": PROMPT, "max_tokens": 16, "n": 3, "seed": 7, "temperature": 1.0}
    first, second = appliance.post("/v1/generate", body), appliance.post("/v1/generate", body)
    texts = [choice["text"] for choice in first["choices"]]
    assert len(set(texts)) == 3
    assert texts == [choice["text"] for choice in second["choices"]]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A wonderful, moving film with a brilliant cast.", "positive"),
        ("A dull and tedious mess without a single good idea.", "negative"),
    ],
)
def test_classify_sentiment(appliance: Appliance, text: str, label: str) -> None:
    answer = appliance.post("/v1/classify", {"input": text})
    result = answer["results"][0]
    assert (result["label"], result["method"]) == (label, "head")
    assert math.isclose(sum(score["score"] for score in result["scores"]), 1, abs_tol=1e-4)


def test_a_list_is_classified_as_its_texts_are(appliance: Appliance) -> None:
    texts = ["A wonderful film.", "A dull mess.", "It is a film with a cast and an end."]
    alone = [appliance.post("/v1/classify", {"input": text})["results"][0] for text in texts]
    results = appliance.post("/v1/classify", {"input": texts * 40})["results"]
    assert len(results) == 120
    for result, expected in zip(results, alone * 40, strict=True):
        assert result["label"] == expected["label"]
        assert math.isclose(result["scores"][0]["score"], expected["scores"][0]["score"], abs_tol=1e-4)


def test_classify_with_labels_of_ones_own(appliance: Appliance) -> None:
    body = {"input": "The dragon ate all of the cake.", "labels": ["food", "weather"], "model": "mini-lm"}
    result = appliance.post("/v1/classify", body)["results"][0]
    assert result["method"] == "zero-shot"
    assert {score["label"] for score in result["scores"]} == {"food", "weather"}


@pytest.mark.parametrize(
    ("premise", "hypothesis", "label"),
    [
        ("A man is playing a guitar on stage.", "A man is playing an instrument.", "entailment"),
        ("A man is playing a guitar on stage.", "The man is sleeping in his bed.", "contradiction"),
    ],
)
def test_infer(appliance: Appliance, premise: str, hypothesis: str, label: str) -> None:
    answer = appliance.post("/v1/infer", {"premise": premise, "hypothesis": hypothesis})
    assert answer["model"] == "mini-nli"
    assert answer["results"][0]["label"] == label


def test_nlu_finds_intent_and_slots_at_their_places(appliance: Appliance) -> None:
    text = "Book a table for four at a restaurant in Boston"
    result = appliance.post("/v1/nlu", {"input": text})["results"][0]
    assert result["intent"]["label"] == "BookRestaurant"
    slots = {slot["name"]: slot for slot in result["slots"]}
    assert slots["city"]["value"] == "Boston"
    assert all(text[slot["start"] : slot["end"]] == slot["value"] for slot in result["slots"])


def test_next_and_score_agree(appliance: Appliance) -> None:
    candidates = appliance.post("/v1/next", {"prompt": PROMPT, "top_k": 5})["candidates"]
    assert len(candidates) == 5
    probabilities = [candidate["probability"] for candidate in candidates]
    assert probabilities == sorted(probabilities, reverse=True)
    best = candidates[0]
    scored = appliance.post("/v1/score", {"prompt": PROMPT, "continuations": [best["text"]]})["scores"][0]
    assert math.isclose(scored["logprob"], math.log(best["probability"]), abs_tol=0.05)


def test_tasks_are_recorded_with_their_outcome(appliance: Appliance) -> None:
    answer = appliance.http.post("/v1/generate", json={"prompt": PROMPT, "max_tokens": 2})
    assert answer.headers["X-Request-Id"]
    newest = appliance.http.get("/v1/tasks", params={"limit": 1}).json()["data"][0]
    assert (newest["type"], newest["state"], newest["caller"]) == ("generate", "done", "127.0.0.1")
