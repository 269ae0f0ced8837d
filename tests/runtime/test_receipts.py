"""Receipts: complete, and the same bits on every level of the operators, alone and under load."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from kernels.library import level, missing, supported_levels, use_level
from runtime.contract import Variant
from runtime.engine import Engine
from runtime.manifest import Manifest
from runtime.parameters import GENERATION_PARAMETERS
from tests.runtime.conftest import OpenEngine
from tests.runtime.engines import ask, submit

PROMPT = "the little cat sat on the mat"
SAMPLED: dict[str, Any] = {"max_tokens": 24, "temperature": 0.9, "top_p": 0.95, "ignore_eos": True}


def receipt_of(engine: Engine, prompt: str = PROMPT, **parameters: Any) -> dict[str, Any]:
    found: dict[str, Any] = ask(engine, prompt, receipt=True, **parameters)["receipt"]
    return found


def replayed(engine: Engine, receipt: dict[str, Any], *, stream: bool = False) -> dict[str, Any]:
    parameters = {**receipt["parameters"], "receipt": True}
    sink = submit(engine, "", parameters, token_ids=receipt["prompt_token_ids"], stream=stream)
    found = sink.wait().generated.receipt
    assert found is not None
    return found.to_json()


@pytest.fixture
def levels() -> Iterator[list[str]]:
    """The level of this process stays as it is for other tests."""
    if reason := missing():
        pytest.skip(reason)
    before = str(level())
    yield supported_levels()
    use_level(before)


def test_a_receipt_has_all_that_made_the_answer(engine: Engine) -> None:
    details = ask(engine, PROMPT, receipt=True, logprobs=2, n=2, stop=["zz"], logit_bias={"5": 1}, **SAMPLED)
    receipt = details["receipt"]
    assert json.loads(json.dumps(receipt)) == receipt
    assert receipt["prompt_token_ids"] == engine.tokenizer.encode(PROMPT)
    assert receipt["artifact"] == engine.manifest.digest(Variant.FP32)
    assert (receipt["variant"], receipt["exact_on"]) == ("fp32", "same-processor")
    assert receipt["kernels"].startswith("onnxruntime 1.")
    assert 0 <= receipt["parameters"]["seed"] < 2**53
    given = {"temperature": 0.9, "top_p": 0.95, "stop": ["zz"], "logit_bias": {"5": 1.0}, "max_tokens": 24}
    assert given.items() <= receipt["parameters"].items()
    assert receipt["parameters"].keys() < set(GENERATION_PARAMETERS)
    for choice, noted in zip(details["choices"], receipt["choices"], strict=True):
        assert noted["token_ids"] == choice["token_ids"]
        assert noted["finish_reason"] == choice["finish_reason"]
        logprobs = [token["logprob"] for token in choice["logprobs"]]
        bits = struct.pack(f"<{len(logprobs)}d", *logprobs)
        assert noted["logprobs_sha256"] == hashlib.sha256(bits).hexdigest()


def test_no_receipt_without_asking(engine: Engine) -> None:
    assert "receipt" not in ask(engine, PROMPT, max_tokens=2)


def test_a_drawn_seed_repeats_the_answer(engine: Engine) -> None:
    first, other = receipt_of(engine, n=3, best_of=5, **SAMPLED), receipt_of(engine, **SAMPLED)
    assert replayed(engine, first) == first
    assert other["parameters"]["seed"] != first["parameters"]["seed"]


def test_the_receipt_of_a_stream_is_that_of_the_whole_answer(engine: Engine) -> None:
    receipt = receipt_of(engine, stop=["e"], min_tokens=3, **SAMPLED)
    assert replayed(engine, receipt, stream=True) == receipt
    assert receipt["choices"][0]["token_ids"]


def test_a_mere_echo_has_a_receipt(engine: Engine) -> None:
    (choice,) = receipt_of(engine, echo=True, max_tokens=0)["choices"]
    assert (choice["token_ids"], choice["finish_reason"]) == ([], "length")
    assert choice["logprobs_sha256"] == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize("variant", ["fp32", "int8", "int4"])
def test_replay_under_load(open_engine: OpenEngine, variant: str) -> None:
    engine = open_engine(variant=variant, num_slots=6, prefill_chunk=8)
    receipts = [receipt_of(engine, f"{PROMPT} and the {word}", **SAMPLED) for word in ("dog", "king")]
    receipts.append(receipt_of(engine, temperature=0, max_tokens=30, repetition_penalty=1.3))
    if receipts[0]["exact_on"] == "not-promised":
        pytest.skip("ONNX Runtime's operator for int4 sums by the number of rows")
    load = [submit(engine, f"{number} friends went home " * 3, SAMPLED) for number in range(9)]
    assert [replayed(engine, receipt) for receipt in receipts] == receipts
    assert all(sink.wait().fault is None for sink in load)


def test_a_prompt_that_was_generated_before_is_read_anew(open_engine: OpenEngine) -> None:
    used, fresh = (open_engine(variant="int8", num_slots=4) for _ in range(2))
    made = ask(used, PROMPT, **{**SAMPLED, "max_tokens": 40})["choices"][0]["token_ids"]
    ids = used.tokenizer.encode(PROMPT) + made[:-2]  # their rows are in the cache
    before = used.stats().prompt_tokens
    asked = {"max_tokens": 12, "temperature": 0, "seed": 1, "receipt": True, "ignore_eos": True}
    first, second = (submit(engine, "", asked, token_ids=ids).wait().generated for engine in (used, fresh))
    assert first.receipt == second.receipt
    assert used.stats().prompt_tokens - before == len(ids)


@pytest.mark.parametrize("variant", ["int8", "int4"])
def test_every_level_gives_the_receipt_of_every_other(
    open_engine: OpenEngine, levels: list[str], variant: str
) -> None:
    receipts: list[dict[str, Any]] = []
    for name in levels:
        assert use_level(name)
        engine = open_engine(variant=variant, num_slots=4)
        if not receipts:
            receipts = [receipt_of(engine, **SAMPLED), receipt_of(engine, temperature=0, max_tokens=40, n=2)]
        for receipt in receipts:
            assert receipt["exact_on"] == "any-processor"
            assert replayed(engine, receipt) == {**receipt, "kernels": name}


def test_the_digest_is_of_what_decides(engine: Engine) -> None:
    manifest = engine.manifest
    again = Manifest.from_json(manifest.to_json().replace(manifest.name, "another"))
    digests = {variant: again.digest(variant) for variant in manifest.variants}
    assert digests == {variant: manifest.digest(variant) for variant in manifest.variants}
    assert len(set(digests.values())) == len(digests)
    other = manifest.to_json().replace(manifest.tokenizer.sha256, "0" * 64)
    assert Manifest.from_json(other).digest(Variant.FP32) != digests[Variant.FP32]
