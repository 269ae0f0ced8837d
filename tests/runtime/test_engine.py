"""The engine with its threads, against oracles that share no code with it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.verification import numpy_gpt2 as oracle
from kernels.library import level, missing, supported_levels, use_level
from runtime.contract import FaultCode, FinishReason, Operation
from runtime.engine import Engine
from runtime.errors import ModelError, RequestFault
from runtime.load import load_engine
from runtime.messages import Answer
from tests.runtime.conftest import OpenEngine
from tests.runtime.engines import Collector, ask, submit, token_ids, version_folder

PROMPTS = [
    "the cat",
    "a",
    "the little cat sat on the mat and the dog ran home",
    "Zwölf Boxkämpfer — 日本語 🙂",
    "it rains a little today, and the dog ran home to its friend; it rains, it rains",
    "\n\n\t ",
]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def expected(lm_checkpoint: Path, engine: Engine) -> list[list[int]]:
    weights, config = oracle.load(lm_checkpoint)
    return [oracle.greedy(weights, config, engine.tokenizer.encode(text), 12) for text in PROMPTS]


def test_greedy_is_the_oracles_alone(engine: Engine, expected: list[list[int]]) -> None:
    assert [token_ids(engine, text, **GREEDY) for text in PROMPTS] == expected


def test_greedy_is_the_same_in_a_batch(engine: Engine, expected: list[list[int]]) -> None:
    sinks = [submit(engine, text, GREEDY, stream=bool(round_ % 2)) for round_ in range(4) for text in PROMPTS]
    found = [
        [token for answer in sink.wait().answers for token in answer.to_json()["choices"][0]["token_ids"]]
        for sink in sinks
    ]
    assert found == expected * 4


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_greedy_is_the_same_in_chunks(open_engine: OpenEngine, expected: list[list[int]], chunk: int) -> None:
    engine = open_engine(prefill_chunk=chunk, num_slots=3)
    sinks = [submit(engine, text, GREEDY) for text in PROMPTS]
    assert [sink.wait().generated.choices[0].token_ids for sink in sinks] == expected


def test_int8_serves_and_does_not_depend_on_the_batch(open_engine: OpenEngine) -> None:
    engine = open_engine(variant="int8")
    alone = [token_ids(engine, text, **GREEDY) for text in PROMPTS]
    sinks = [submit(engine, text, GREEDY) for text in PROMPTS]
    assert [sink.wait().generated.choices[0].token_ids for sink in sinks] == alone


def test_siblings_share_the_prompt_and_differ(engine: Engine) -> None:
    before = engine.stats()
    details = ask(engine, PROMPTS[2], n=4, seed=3, max_tokens=8)
    assert [choice["index"] for choice in details["choices"]] == [0, 1, 2, 3]
    assert len({tuple(choice["token_ids"]) for choice in details["choices"]}) == 4
    prompt_tokens = details["usage"]["prompt_tokens"]
    assert engine.stats().prompt_tokens - before.prompt_tokens <= prompt_tokens
    assert details["usage"]["completion_tokens"] == sum(len(c["token_ids"]) for c in details["choices"])
    again = ask(engine, PROMPTS[2], n=4, seed=3, max_tokens=8)
    assert again["choices"] == details["choices"]


def test_more_siblings_than_slots_all_finish(open_engine: OpenEngine) -> None:
    details = ask(open_engine(num_slots=2), "the cat", n=5, max_tokens=4)
    assert [choice["finish_reason"] is not None for choice in details["choices"]] == [True] * 5


def test_a_stream_joined_is_the_whole_answer(engine: Engine) -> None:
    parameters = {"n": 3, "seed": 5, "max_tokens": 30, "logprobs": 1, "echo": True}
    whole = submit(engine, "the dog", parameters).wait()
    streamed = submit(engine, "the dog", parameters, stream=True).wait()
    for index in range(3):
        assert streamed.text(index) == whole.text(index)
    assert len(streamed.answers) > 1
    assert [answer.to_json()["usage"] is None for answer in streamed.answers[:-1]] == [True] * (
        len(streamed.answers) - 1
    )
    assert streamed.generated.usage == whole.generated.usage


def test_echo_with_logprobs_scores_the_prompt(engine: Engine, lm_checkpoint: Path) -> None:
    ids = engine.tokenizer.encode(PROMPTS[2])
    details = ask(engine, PROMPTS[2], echo=True, logprobs=2, max_tokens=2, temperature=0)
    choice = details["choices"][0]
    assert choice["text"].startswith(PROMPTS[2])
    assert [record["token_id"] for record in choice["logprobs"]] == ids + choice["token_ids"]
    assert choice["logprobs"][0]["logprob"] is None
    expected = oracle_logprobs(lm_checkpoint, ids + choice["token_ids"])
    found = [record["logprob"] for record in choice["logprobs"][1:]]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    for record in choice["logprobs"][1:]:
        assert [item["logprob"] for item in record["top"]] == sorted(
            (item["logprob"] for item in record["top"]), reverse=True
        )
        assert len(record["top"]) == 2


@pytest.mark.parametrize("logprobs", [None, 0])
def test_an_echo_without_new_tokens(engine: Engine, logprobs: int | None) -> None:
    details = ask(engine, "the cat sat", echo=True, max_tokens=0, logprobs=logprobs, n=2)
    for choice in details["choices"]:
        assert (choice["text"], choice["token_ids"], choice["finish_reason"]) == ("the cat sat", [], "length")
        assert (choice["logprobs"] is None) is (logprobs is None)
    assert details["usage"]["completion_tokens"] == 0


def test_score_is_the_oracles(engine: Engine, lm_checkpoint: Path) -> None:
    continuations = [" sat on the mat", " ran", " friend today"]
    details = ask(engine, "the cat", Operation.SCORE, continuations=continuations)
    prompt = engine.tokenizer.encode("the cat")
    for text, score in zip(continuations, details["scores"], strict=True):
        ids = engine.tokenizer.encode("the cat" + text)
        expected = oracle_logprobs(lm_checkpoint, ids)[len(prompt) - 1 :]
        assert [token["token_id"] for token in score["tokens"]] == ids[len(prompt) :]
        np.testing.assert_allclose([token["logprob"] for token in score["tokens"]], expected, atol=1e-3)
        assert score["logprob"] == pytest.approx(sum(expected), abs=1e-2)
        assert score["num_bytes"] == len(text)


def test_score_moves_spaces_and_begins_after_the_end_of_text(engine: Engine, lm_checkpoint: Path) -> None:
    spaced = ask(engine, "the cat ", Operation.SCORE, continuations=["sat"])["scores"][0]
    joined = ask(engine, "the cat", Operation.SCORE, continuations=[" sat"])["scores"][0]
    assert spaced["logprob"] == pytest.approx(joined["logprob"])
    empty = ask(engine, "", Operation.SCORE, continuations=["the cat"])["scores"][0]
    ids = [engine.manifest.architecture.eos_token_id or 0, *engine.tokenizer.encode("the cat")]
    assert empty["logprob"] == pytest.approx(sum(oracle_logprobs(lm_checkpoint, ids)), abs=1e-2)


def test_next_is_the_oracles(engine: Engine, lm_checkpoint: Path) -> None:
    weights, config = oracle.load(lm_checkpoint)
    logits = oracle.lm_logits(weights, config, engine.tokenizer.encode("the cat"))[-1]
    candidates = ask(engine, "the cat", Operation.NEXT, top_k=5)["candidates"]
    assert [item["token_id"] for item in candidates] == np.argsort(-logits)[:5].tolist()
    probabilities = np.sort(np.exp(logits) / np.exp(logits).sum())[::-1][:5]
    np.testing.assert_allclose([item["probability"] for item in candidates], probabilities, rtol=1e-3)
    assert math.exp(candidates[0]["logprob"]) == pytest.approx(candidates[0]["probability"])


@pytest.mark.parametrize("text", ["a", PROMPTS[4]])
def test_embed_is_the_mean_of_the_hidden_states(
    open_engine: OpenEngine, lm_checkpoint: Path, text: str
) -> None:
    weights, config = oracle.load(lm_checkpoint)
    engine = open_engine(prefill_chunk=5)
    mean = oracle.hidden_states(weights, config, engine.tokenizer.encode(text)).mean(axis=0)
    found = ask(engine, text, Operation.EMBED)["embedding"]
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-4)


def test_a_stop_string_ends_the_text_before_it(engine: Engine) -> None:
    whole = submit(engine, "the cat", GREEDY).wait().text()
    stop = whole[3:5]
    for stream in (False, True):
        sink = submit(engine, "the cat", {**GREEDY, "max_tokens": 40, "stop": stop}, stream=stream).wait()
        assert sink.text() == whole[: whole.index(stop)]
        assert sink.generated.choices[-1].finish_reason is FinishReason.STOP


def test_without_max_tokens_the_room_in_the_context_is_the_limit(engine: Engine) -> None:
    prompt = "a" * 90
    assert len(engine.tokenizer.encode(prompt)) == 90
    details = ask(engine, prompt, ignore_eos=True)
    assert details["usage"] == {"prompt_tokens": 90, "completion_tokens": 6}
    assert details["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("text", "parameters", "field", "said"),
    [
        ("a" * 97, {}, "text_input", "97 tokens, but this model's maximum context length is 96 tokens"),
        (
            "a" * 96,
            {},
            "text_input",
            "96 tokens, and none can follow: this model's maximum context length is 96 tokens",
        ),
        (
            "a" * 90,
            {"max_tokens": 7},
            "max_tokens",
            "90 prompt tokens + 7 = 97, but this model's maximum context length is 96 tokens",
        ),
        (
            "a" * 1_000_000,
            {},
            "text_input",
            "1000000 characters are too many tokens: this model's maximum context length is 96 tokens",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_numbers(
    engine: Engine, text: str, parameters: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(RequestFault, match=said.replace("+", r"\+")) as raised:
        submit(engine, text, parameters)
    assert (raised.value.fault.code, raised.value.fault.field) == (FaultCode.CONTEXT_LENGTH, field)


@pytest.mark.parametrize(
    ("text", "parameters", "field", "said"),
    [
        ("\ud800", {}, "text_input", "surrogate"),
        ("a", {"logit_bias": {"9999999": 1}}, "logit_bias", "9999999 is no token of this model"),
    ],
)
def test_what_means_nothing_is_refused(
    engine: Engine, text: str, parameters: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(RequestFault, match=said) as raised:
        submit(engine, text, parameters)
    assert (raised.value.fault.code, raised.value.fault.field) == (FaultCode.INVALID_ARGUMENT, field)


def test_max_tokens_can_be_cut_to_the_room_that_is_left(engine: Engine) -> None:
    asked: dict[str, Any] = {"max_tokens": 2048, "clamp_max_tokens": True, "ignore_eos": True}
    details = ask(engine, "a" * 90, **asked)
    assert (details["usage"]["completion_tokens"], details["choices"][0]["finish_reason"]) == (6, "length")
    with pytest.raises(RequestFault, match="96 tokens, and none can follow") as raised:
        submit(engine, "a" * 96, asked)
    assert raised.value.fault.code is FaultCode.CONTEXT_LENGTH


def test_min_tokens_keeps_end_of_text_and_stop_strings_from_ending(engine: Engine) -> None:
    eos = engine.tokenizer.eos_token_id
    wanted: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "logit_bias": {str(eos): 100}}
    assert token_ids(engine, "the cat", **wanted) == [eos]
    ids = token_ids(engine, "the cat", **wanted, min_tokens=3)
    assert (len(ids), ids[-1]) == (4, eos)
    # Every token of this model's answer has text, and each text is a stop string.
    plain = submit(engine, "the cat", GREEDY).wait().text()
    stops = sorted(set(plain))[:16]
    cut = ask(engine, "the cat", **GREEDY, stop=stops)
    late = ask(engine, "the cat", **GREEDY, stop=stops, min_tokens=5)
    assert len(cut["choices"][0]["token_ids"]) < 5 <= len(late["choices"][0]["token_ids"])
    assert late["choices"][0]["finish_reason"] == "stop"


def test_the_best_of_several_are_those_of_the_highest_mean_logprob(engine: Engine) -> None:
    asked: dict[str, Any] = {"seed": 4, "temperature": 1.5, "max_tokens": 6, "logprobs": 0}
    every = ask(engine, "the cat", **asked, n=6)["choices"]

    def mean(choice: dict[str, Any]) -> float:
        return float(np.mean([token["logprob"] for token in choice["logprobs"]]))

    best = ask(engine, "the cat", **asked, n=2, best_of=6)
    likeliest = sorted(every, key=mean, reverse=True)[:2]
    assert [choice["text"] for choice in best["choices"]] == [choice["text"] for choice in likeliest]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert best["usage"]["completion_tokens"] == sum(len(choice["token_ids"]) for choice in every)
    quiet: dict[str, Any] = {name: value for name, value in asked.items() if name != "logprobs"}
    without = ask(engine, "the cat", **quiet, n=2, best_of=6)["choices"]
    assert [choice["text"] for choice in without] == [choice["text"] for choice in likeliest]
    with pytest.raises(RequestFault, match="a stream cannot choose"):
        submit(engine, "the cat", {"best_of": 2}, stream=True)


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        (Operation.GENERATE, {**GREEDY, "echo": True, "logprobs": 2}),
        (Operation.NEXT, {"top_k": 3}),
        (Operation.EMBED, {}),
    ],
)
def test_token_ids_are_answered_as_their_text_is(
    engine: Engine, operation: Operation, parameters: dict[str, Any]
) -> None:
    for text in PROMPTS:
        expected = submit(engine, text, parameters, operation=operation).wait().details
        ids = engine.tokenizer.encode(text)
        found = submit(engine, "", parameters, operation=operation, token_ids=ids).wait().details
        assert rounded({**found, "timings": None}) == rounded({**expected, "timings": None})


def test_each_end_of_text_ends_it(engine: Engine, lm_artifact: Path, tmp_path: Path) -> None:
    greedy: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
    ids = token_ids(engine, "the", **greedy)
    folder = version_folder(lm_artifact, tmp_path / "1")
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["architecture"]["more_eos_token_ids"] = [299, ids[5]]
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    opened = load_engine(folder)
    try:
        (choice,) = ask(opened, "the", **greedy | {"ignore_eos": False})["choices"]
        assert choice["token_ids"] == ids[: ids.index(ids[5]) + 1]
        assert choice["finish_reason"] == "stop"
        assert choice["text"] == engine.tokenizer.decode(choice["token_ids"][:-1])
        assert token_ids(opened, "the", **greedy) == ids
    finally:
        opened.close()


def test_special_tokens_of_a_prompt(engine: Engine) -> None:
    text, end = "the<|endoftext|>cat", "<|endoftext|>"
    details = ask(engine, text, echo=True, logprobs=0, **GREEDY)
    records = details["choices"][0]["logprobs"]
    assert [record["text"] for record in records[:3]] == ["the", end, "cat"]
    assert [record["text_offset"] for record in records[:4]] == [0, 3, 16, 19]
    plain = ask(engine, text, special_tokens=False, echo=True, logprobs=0, **GREEDY)
    assert plain["choices"][0]["text"].startswith(text)
    assert end not in [record["text"] for record in plain["choices"][0]["logprobs"][:5]]
    others: dict[Operation, dict[str, Any]] = {
        Operation.NEXT: {"top_k": 1},
        Operation.EMBED: {},
        Operation.SCORE: {"continuations": ["a"]},
    }
    for operation, more in others.items():
        read = ask(engine, text, operation, **more)
        characters = ask(engine, text, operation, special_tokens=False, **more)
        assert read["usage"]["prompt_tokens"] < characters["usage"]["prompt_tokens"]


def test_a_prompt_of_special_tokens_may_be_long(engine: Engine) -> None:
    """Its characters are more than the longest other token has for each place of the context."""
    details = ask(engine, "<|endoftext|>" * 90, max_tokens=1)
    assert details["usage"]["prompt_tokens"] == 90


def rounded(value: Any) -> Any:
    """Rows of the cache that another prompt left may differ in the last bits."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value


def test_no_text_is_the_start_of_one(engine: Engine, lm_checkpoint: Path) -> None:
    end_of_text = engine.tokenizer.eos_token_id
    assert end_of_text is not None
    details = ask(engine, "", echo=True, logprobs=0, **GREEDY)
    (choice,) = details["choices"]
    ids = [end_of_text, *choice["token_ids"]]
    assert [record["token_id"] for record in choice["logprobs"]] == ids
    assert choice["logprobs"][0]["text"] == "<|endoftext|>"
    np.testing.assert_allclose(
        [record["logprob"] for record in choice["logprobs"][1:]],
        oracle_logprobs(lm_checkpoint, ids),
        atol=1e-3,
    )
    assert choice["text"] == engine.tokenizer.decode(choice["token_ids"])
    assert choice["logprobs"][0]["text_offset"] == choice["logprobs"][1]["text_offset"] == 0
    assert details["usage"]["prompt_tokens"] == 1
    given = submit(engine, "", GREEDY, token_ids=[end_of_text]).wait().details
    assert given["choices"][0]["token_ids"] == choice["token_ids"]
    (first,) = ask(engine, "", Operation.NEXT, top_k=1)["candidates"]
    assert first["token_id"] == choice["token_ids"][0]
    with pytest.raises(RequestFault, match=r"\[text_input\]: the text is empty"):
        submit(engine, "", operation=Operation.EMBED)


@pytest.mark.parametrize(
    ("ids", "operation", "field", "said"),
    [
        ([], Operation.GENERATE, "prompt_token_ids", "empty; at least one token id is needed"),
        (
            [5, 6, 10_000],
            Operation.GENERATE,
            "prompt_token_ids.2",
            "10000 is no token of this model; its ids",
        ),
        ([-1], Operation.NEXT, "prompt_token_ids.0", "-1 is no token of this model; its ids go from 0 to"),
        ([5], Operation.SCORE, "prompt_token_ids", "operation score reads text_input alone"),
    ],
)
def test_token_ids_that_are_none_are_refused_by_their_place(
    engine: Engine, ids: list[int], operation: Operation, field: str, said: str
) -> None:
    with pytest.raises(RequestFault, match=said) as raised:
        submit(engine, "", {}, operation=operation, token_ids=ids)
    assert (raised.value.fault.code, raised.value.fault.field) == (FaultCode.INVALID_ARGUMENT, field)


@pytest.mark.parametrize("prompt", ["Ünï", "🙂🙂", "a Ünï🙂 — 日本語 b", "the cat"])
@pytest.mark.parametrize("echo", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_text_offsets_count_characters(engine: Engine, prompt: str, echo: bool, stream: bool) -> None:
    """A random model's answer is hardly ever text; the prompt is."""
    parameters = {**GREEDY, "echo": echo, "logprobs": 0}
    collected = submit(engine, prompt, parameters, stream=stream).wait()
    answers = [answer.to_json()["choices"][0] for answer in collected.answers]
    records = [record for answer in answers for record in answer["logprobs"]]
    data, expected, found = b"", [], []
    for place, record in enumerate(records):
        if echo and place == len(engine.tokenizer.encode(prompt)):
            assert data.decode() == prompt
        piece = engine.tokenizer.token_bytes(record["token_id"])
        if piece:
            expected.append(len((data + piece[:1]).decode("utf-8", "replace")) - 1)
            found.append(record["text_offset"])
        data += piece
    assert found == expected
    assert collected.text() == data.decode("utf-8", "replace")


def test_a_space_that_the_tokenizer_puts_in_front_is_no_character_of_the_text(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = engine.tokenizer.encode
    monkeypatch.setattr(engine.tokenizer, "encode", lambda text, **more: encode(f" {text}", **more))
    details = ask(engine, "cat sat", echo=True, logprobs=0, max_tokens=0)
    records = details["choices"][0]["logprobs"]
    assert "".join(record["text"] for record in records) == " cat sat"
    begins = [record["text_offset"] for record in records]
    assert begins == [max(0, begin - 1) for begin in np.cumsum([0, *(len(r["text"]) for r in records)])[:-1]]


def test_tokens_of_a_text_and_back_beyond_the_context(engine: Engine) -> None:
    text = "the cat " * 100 + "Ünï🙂 <|endoftext|>"
    found = ask(engine, text, Operation.TOKENIZE)
    assert found["token_ids"] == engine.tokenizer.encode(text)
    assert len(found["tokens"]) == len(found["token_ids"]) > 96
    assert (found["text"], found["eos_token"]) == (text, "<|endoftext|>")
    back = submit(engine, "", operation=Operation.TOKENIZE, token_ids=found["token_ids"]).wait().details
    assert back == found
    plain = ask(engine, text, Operation.TOKENIZE, special_tokens=False)
    assert (plain["text"], len(plain["token_ids"]) > len(found["token_ids"])) == (text, True)
    assert ask(engine, "", Operation.TOKENIZE)["token_ids"] == []
    with pytest.raises(RequestFault, match="10000 is no token"):
        submit(engine, "", operation=Operation.TOKENIZE, token_ids=[10_000])
    with pytest.raises(RequestFault, match="at most 100000 are read"):
        submit(engine, "a" * 100_001, operation=Operation.TOKENIZE)


def test_a_score_beyond_the_context_is_refused(engine: Engine) -> None:
    with pytest.raises(RequestFault, match="number 1 and the prompt have 98 tokens"):
        ask(engine, "a" * 50, Operation.SCORE, continuations=["a", "a" * 48])
    with pytest.raises(
        RequestFault, match="97 tokens, but this model's maximum context length is 96 tokens"
    ) as raised:
        ask(engine, "a" * 97, Operation.SCORE, continuations=["a"])
    assert raised.value.fault.field == "text_input"
    with pytest.raises(RequestFault, match="97 tokens, but this model's maximum") as raised:
        submit(engine, "", {}, operation=Operation.EMBED, token_ids=[5] * 97)
    assert raised.value.fault.encode().startswith("context_length [prompt_token_ids]: ")


def test_a_full_queue_refuses_and_recovers(open_engine: OpenEngine) -> None:
    engine = open_engine(num_slots=1, max_queued=2)
    long: dict[str, Any] = {"max_tokens": 90, "ignore_eos": True}
    sinks: list[Collector] = []
    with pytest.raises(RequestFault) as raised:
        sinks.extend(submit(engine, "a", long) for _ in range(100))
    assert raised.value.fault.code is FaultCode.QUEUE_FULL
    assert len(sinks) >= 2
    for sink in sinks:
        assert sink.wait().fault is None
    assert ask(engine, "a", max_tokens=1, ignore_eos=True)["usage"]["completion_tokens"] == 1


def test_the_queue_is_bounded_by_tokens_too(open_engine: OpenEngine) -> None:
    with pytest.raises(ModelError, match="max_queued_tokens: 95"):
        open_engine(max_queued_tokens=95)
    engine = open_engine(num_slots=1, max_queued_tokens=96)
    with pytest.raises(RequestFault, match="100 tokens in all its sequences, but at most 96 may wait"):
        submit(engine, "a" * 50, {"max_tokens": 1, "n": 2})
    with pytest.raises(RequestFault) as raised:
        all(submit(engine, "a" * 40, {"max_tokens": 50, "ignore_eos": True}) for _ in range(100))
    assert raised.value.fault.code is FaultCode.QUEUE_FULL


def test_the_cache_is_bounded_by_tokens_and_what_does_not_fit_waits(open_engine: OpenEngine) -> None:
    engine = open_engine(num_slots=4, max_kv_tokens=96, max_queued=3)
    long: dict[str, Any] = {"max_tokens": 90, "ignore_eos": True}
    sinks = [submit(engine, "a", long)]
    with pytest.raises(RequestFault) as raised:
        sinks.extend(submit(engine, "a", long) for _ in range(50))
    assert raised.value.fault.code is FaultCode.QUEUE_FULL
    assert engine.stats().running <= 1, "the slots are not what it lacks"
    assert [sink.wait().fault for sink in sinks] == [None] * len(sinks)
    assert engine.stats().kv_tokens_capacity == 96


def test_one_request_that_can_never_fit_is_refused(open_engine: OpenEngine) -> None:
    engine = open_engine(num_slots=4, max_kv_tokens=60)
    with pytest.raises(
        RequestFault, match=r"\[max_tokens\]: 1 prompt tokens \+ 60 = 61, but max_kv_tokens"
    ) as big:
        submit(engine, "a", {"max_tokens": 60})
    assert big.value.fault.code is FaultCode.CONTEXT_LENGTH
    with pytest.raises(RequestFault, match=r"\[continuations\]: number 0 and the prompt have 62 tokens"):
        submit(engine, "a" * 31, {"continuations": ["a" * 31]}, operation=Operation.SCORE)
    details = ask(engine, "a" * 50, ignore_eos=True)
    assert details["usage"]["completion_tokens"] == 10, "without max_tokens the room that is left"
    with pytest.raises(ModelError, match=r"golden prompt|max_kv_tokens"):
        open_engine(max_kv_tokens=3)


def test_a_flood_of_one_caller_holds_up_no_other(open_engine: OpenEngine) -> None:
    engine = open_engine(num_slots=2)
    ends: list[str] = []

    def submit_as(caller: str) -> Collector:
        sink = Collector(lambda answer: ends.append(caller))
        return submit(engine, "the cat", {"max_tokens": 20, "ignore_eos": True, "caller": caller}, sink=sink)

    sinks = [submit_as("flood") for _ in range(60)]
    sinks.append(submit_as("single"))
    for sink in sinks:
        sink.wait()
    assert ends.index("single") < 40


def test_a_deadline_that_cannot_be_met_is_refused_with_the_time_to_come_back(
    open_engine: OpenEngine,
) -> None:
    engine = open_engine(num_slots=2)
    parameters = {"max_tokens": 50, "ignore_eos": True}
    crowd = [
        submit(engine, "the cat", {**parameters, "n": 8}, request_id=f"crowd {number}")
        for number in range(100)
    ]
    crowd[0].wait()
    late = submit(engine, "the dog", {**parameters, "deadline_ms": 1}).wait()
    assert late.fault is not None
    assert (late.fault.code, late.fault.field) == (FaultCode.QUEUE_FULL, "deadline_ms")
    assert late.fault.retry_after is not None
    assert late.fault.retry_after > 0
    for other in range(100):
        engine.abort(f"crowd {other}")


def test_a_deadline_fails_running_and_waiting_requests(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.core.why_too_late", lambda *_: None)  # as where the speed is not known yet
    engine = open_engine(num_slots=1)
    late = [submit(engine, "a", {"max_tokens": 95, "ignore_eos": True, "deadline_ms": 5}) for _ in range(3)]
    faults = [sink.wait().fault for sink in late[1:]]
    assert [fault and fault.code for fault in faults] == [FaultCode.DEADLINE_EXCEEDED] * 2
    assert (
        ask(engine, "a", max_tokens=3, ignore_eos=True, deadline_ms=20_000)["usage"]["completion_tokens"] == 3
    )


def test_abort_ends_a_request_and_leaves_the_others(open_engine: OpenEngine) -> None:
    engine = open_engine(num_slots=2)

    long: dict[str, Any] = {"max_tokens": 90, "ignore_eos": True}
    first = submit(engine, "a", long, stream=True, request_id="first")
    engine.abort("first")  # at once: from its own sink it could come after the last of so few tokens
    waiting = [submit(engine, "the cat", long, request_id=f"w{number}") for number in range(3)]
    engine.abort("w2")
    engine.abort("never heard of")
    fault = first.wait().fault
    assert fault is not None
    assert fault.code is FaultCode.CANCELLED
    assert waiting[2].wait().fault is not None
    assert [sink.wait().fault for sink in waiting[:2]] == [None, None]
    assert engine.stats().finished[FinishReason.CANCELLED] == 2


def test_an_id_under_way_is_refused(open_engine: OpenEngine) -> None:
    engine = open_engine(num_slots=1)
    sink = submit(engine, "a", {"max_tokens": 90, "ignore_eos": True}, request_id="twice")
    with pytest.raises(RequestFault, match="under way"):
        submit(engine, "a", request_id="twice")
    sink.wait()


def test_a_broken_sink_harms_nobody_else(open_engine: OpenEngine, caplog: pytest.LogCaptureFixture) -> None:
    engine = open_engine()

    def burst(answer: Answer) -> None:
        raise OSError("the client is gone")

    broken = Collector(burst)
    submit(engine, "a", {"max_tokens": 90, "ignore_eos": True}, stream=True, sink=broken)
    assert ask(engine, "the cat", max_tokens=5, ignore_eos=True)["usage"]["completion_tokens"] == 5
    broken.wait()
    assert engine.drain(30)
    assert "could not be answered" in caplog.text


def test_an_answer_that_cannot_be_sent_becomes_a_fault(open_engine: OpenEngine) -> None:
    engine = open_engine()

    def burst(answer: Answer) -> None:
        raise ValueError("out of range float values are not JSON compliant")

    fault = submit(engine, "a", {"max_tokens": 2}, sink=Collector(burst)).wait().fault
    assert fault is not None
    assert fault.code is FaultCode.INTERNAL
    assert engine.drain(30)


def test_drain_waits_and_then_refuses(open_engine: OpenEngine) -> None:
    engine = open_engine()
    sinks = [submit(engine, "a", {"max_tokens": 50, "ignore_eos": True}) for _ in range(4)]
    assert engine.drain(30)
    assert [sink.ends for sink in sinks] == [1] * 4
    with pytest.raises(RequestFault) as raised:
        submit(engine, "a")
    assert raised.value.fault.code is FaultCode.UNAVAILABLE


def test_close_fails_what_is_under_way(open_engine: OpenEngine) -> None:
    engine = open_engine(num_slots=1)
    sinks = [submit(engine, "a", {"max_tokens": 95, "ignore_eos": True}) for _ in range(20)]
    engine.close()
    assert [sink.ends for sink in sinks] == [1] * 20
    last = sinks[-1].fault
    assert last is not None
    assert last.code is FaultCode.UNAVAILABLE


def test_the_figures_add_up(open_engine: OpenEngine) -> None:
    engine = open_engine(num_slots=4)
    before = engine.stats()
    for _ in range(3):
        ask(engine, "the cat", max_tokens=7, ignore_eos=True)
    assert engine.drain(30)
    after = engine.stats()
    assert after.generated_tokens - before.generated_tokens == 21
    assert after.finished[FinishReason.LENGTH] - before.finished[FinishReason.LENGTH] == 3
    assert (after.running, after.waiting, after.kv_tokens_used, after.kv_tokens_promised) == (0, 0, 0, 0)
    assert (after.kv_tokens_capacity, after.stalled) == (4 * 96, False)
    assert 8 <= after.kv_tokens_resident <= 30, "what was left for those who begin alike"
    assert after.decode_seconds > before.decode_seconds


def oracle_logprobs(checkpoint: Path, ids: list[int]) -> list[float]:
    """Of each token but the first, given those before it."""
    weights, config = oracle.load(checkpoint)
    logits = oracle.lm_logits(weights, config, ids)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return [float(logprobs[place, token]) for place, token in enumerate(ids[1:])]


@pytest.mark.skipif(bool(missing()), reason="of our operators")
def test_every_level_gives_the_same_answer(open_engine: OpenEngine) -> None:
    """Tokens and log-probabilities, to the last bit."""
    before, answers = level(), []
    for name in supported_levels():
        assert use_level(name)
        engine = open_engine(variant="int8")
        answers.append(ask(engine, "the cat", max_tokens=24, temperature=0, logprobs=3, ignore_eos=True))
    assert use_level(str(before))
    assert all(answer["choices"] == answers[0]["choices"] for answer in answers)


@pytest.mark.skipif(bool(missing()), reason="of our operators")
@pytest.mark.parametrize("more", range(4))
def test_how_a_prompt_is_cut_changes_no_answer_of_int8(open_engine: OpenEngine, more: int) -> None:
    """Bit for bit: the length of chunks follows the time that steps take (`ChunkBudget`)."""
    prompt = "the cat and the dog went to the king " * 4 + "the " * more
    answers = []
    for chunk in (3, 7, 8, 16, 24, 96):
        engine = open_engine(variant="int8", prefill_chunk=chunk, num_slots=1)
        answer = ask(engine, prompt, max_tokens=8, temperature=0, logprobs=3, ignore_eos=True)
        assert answer["usage"]["prompt_tokens"] >= 48
        answers.append(answer["choices"])
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.skipif(bool(missing()), reason="of our operators")
@pytest.mark.parametrize(("chunk", "num_slots"), [(96, 16), (16, 5), (7, 3)])
def test_prompts_that_come_together_answer_as_alone(
    open_engine: OpenEngine, chunk: int, num_slots: int
) -> None:
    """Bit for bit, whatever else is in a run: chunks of other prompts, sequences that decode."""
    alone = open_engine(variant="int8")
    together = open_engine(variant="int8", prefill_chunk=chunk, num_slots=num_slots)
    asked: list[tuple[str, Operation, dict[str, Any]]] = []
    for number, text in enumerate(PROMPTS):
        asked.append((text, Operation.GENERATE, {**GREEDY, "logprobs": 2, "echo": number % 2 == 0}))
        asked.append((text, Operation.GENERATE, {"seed": number, "n": 2, "max_tokens": 5 + number}))
        asked.append((text, Operation.SCORE, {"continuations": [" sat", " on the mat"]}))
        asked.append((text, Operation.EMBED, {}))
    expected = [ask(alone, text, operation, **parameters) for text, operation, parameters in asked]
    sinks = [submit(together, text, one, operation=operation) for text, operation, one in asked]
    for sink, wanted in zip(sinks, expected, strict=True):
        assert {**sink.wait().details, "timings": None} == {**wanted, "timings": None}
