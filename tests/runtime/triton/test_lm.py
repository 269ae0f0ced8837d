"""Kind `lm` in a real Triton: what clients of its vLLM backend expect, and what is ours."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from tritonclient.utils import InferenceServerException

from runtime.contract import Fault, FaultCode, LmTensors, Variant
from runtime.manifest import MANIFEST_FILE, Manifest
from tests.runtime.triton.clients import TIMEOUT_SECONDS, Failed, Server

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
LONG: dict[str, Any] = {"max_tokens": 90, "ignore_eos": True}


def test_the_golden_prompts_come_out_of_the_server(server: Server) -> None:
    manifest = Manifest.load(server.repository / "lm" / "1")
    for prompt, answer in zip(manifest.golden, manifest.variants[Variant.FP32].golden, strict=True):
        parameters = {"temperature": 0, "max_tokens": len(answer.token_ids), "ignore_eos": True}
        choice = server.details(prompt.text, parameters)["choices"][0]
        assert tuple(choice["token_ids"]) == answer.token_ids


def test_the_prompt_is_in_the_output_as_vllm_has_it(server: Server) -> None:
    only_text = {"outputs": ("text_output",)}
    (excluded,) = server.ask("the cat", GREEDY, exclude_input_in_output=True, **only_text)
    (included,) = server.ask("the cat", GREEDY, **only_text)
    assert included["text_output"][0] == b"the cat" + excluded["text_output"][0]
    streamed = server.ask("the cat", GREEDY, stream=True, **only_text)
    assert b"".join(item["text_output"][0] for item in streamed) == excluded["text_output"][0]
    with pytest.raises(Failed, match=r"\[exclude_input_in_output\]"):
        server.ask("the cat", GREEDY, stream=True, exclude_input_in_output=False)


def test_switches_bring_outputs_side_by_side(server: Server) -> None:
    parameters = {"n": 2, "seed": 1, "max_tokens": 5, "logprobs": 2, "ignore_eos": True}
    assert set(server.ask("the cat", parameters)[0]) == {"text_output", "details"}
    switches = dict.fromkeys(LmTensors.SWITCHES, True)
    (found,) = server.ask("the cat", parameters, **switches)
    choices = json.loads(found["details"][0])["choices"]
    assert found["finish_reason"] == [b"length"] * 2
    assert found["num_input_tokens"] == [2]
    assert found["num_output_tokens"] == [5, 5]
    assert found["token_ids"] == choices[0]["token_ids"] + choices[1]["token_ids"]
    for choice, total, listed in zip(choices, found["cumulative_logprob"], found["logprobs"], strict=True):
        assert total == pytest.approx(sum(record["logprob"] for record in choice["logprobs"]), abs=1e-3)
        for record, ranked in zip(choice["logprobs"], json.loads(listed), strict=True):
            assert ranked[str(record["token_id"])]["logprob"] == record["logprob"]
            assert {item["rank"] for item in ranked.values()} >= {1, 2}


def test_a_grammar_is_followed(server: Server) -> None:
    choices = ["the dog", "rain"]
    asked = {"structured_outputs": json.dumps({"choice": choices}), "temperature": 0, "max_tokens": 20}
    assert server.details("the cat", asked)["choices"][0]["text"] in choices
    with pytest.raises(Failed, match=r"invalid_argument \[guided_regex\].*unclosed group"):
        server.ask("the cat", {"guided_regex": "("})


def test_a_stream_has_all_choices_in_every_response(server: Server) -> None:
    responses = server.ask(
        "the cat", {"n": 2, **LONG}, stream=True, return_finish_reason=True, return_num_output_tokens=True
    )
    assert {len(response["text_output"]) for response in responses} == {2}
    assert responses[0]["finish_reason"] == [b"None", b"None"]
    assert responses[-1]["finish_reason"] == [b"length", b"length"]
    assert [sum(counts) for counts in zip(*(r["num_output_tokens"] for r in responses), strict=True)] == [
        90
    ] * 2


def test_numbers_may_be_text_and_parameters_may_come_with_the_request(server: Server) -> None:
    expected = server.details("the cat", GREEDY)["choices"]
    texts = {name: str(value) for name, value in GREEDY.items() if name != "ignore_eos"}
    assert server.details("the cat", {**texts, "ignore_eos": True})["choices"] == expected
    answer = httpx.post(
        f"http://127.0.0.1:{server.ports.http}/v2/models/lm/generate",
        json={"text_input": "the cat", "parameters": GREEDY, "id": "42"},
        trust_env=False,
    ).json()
    assert json.loads(answer["details"])["choices"] == expected


def test_the_other_operations_answer_in_details(server: Server) -> None:
    scores = server.details("the cat", {"continuations": [" sat", " ran home"]}, operation="score")["scores"]
    assert [score["num_bytes"] for score in scores] == [4, 9]
    assert all(score["num_tokens"] == len(score["tokens"]) for score in scores)
    candidates = server.details("the cat", {"top_k": 3}, operation="next")["candidates"]
    assert len(candidates) == 3
    embedding = server.details("the cat", operation="embed")["embedding"]
    assert sum(value * value for value in embedding) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "parameters", "options", "field"),
    [
        ("", None, {"operation": "embed"}, "text_input"),
        (b"\xff", None, {}, "text_input"),
        ("a" * 97, None, {}, "text_input"),
        ("a" * 10_000_000, None, {}, "text_input"),
        ("a", "{", {}, "sampling_parameters"),
        ("a", "[]", {}, "sampling_parameters"),
        ("a", "[" * 100_000, {}, "sampling_parameters"),
        ("a", {"max_tokens": 96}, {}, "max_tokens"),
        ("a", {"max_tokns": 5}, {}, "max_tokns"),
        ("a", {"temperature": float("nan")}, {}, "temperature"),
        ("a", None, {"operation": "dance"}, "operation"),
        ("a", None, {"operation": "score"}, "continuations"),
        ("a", None, {"operation": "embed", "stream": True}, "stream"),
    ],
)
def test_bad_input_is_a_fault_that_names_the_field(
    server: Server, text: str | bytes, parameters: Any, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(Failed) as raised:
        server.ask(text, parameters, **options)
    fault = Fault.decode(str(raised.value))
    assert fault is not None
    too_long = field == "max_tokens" or len(text) > 96
    code = FaultCode.CONTEXT_LENGTH if too_long else FaultCode.INVALID_ARGUMENT
    assert (fault.code, fault.field) == (code, field)
    assert server.details("a", {"max_tokens": 1})["usage"]["completion_tokens"] == 1


def test_clients_that_leave_free_their_places(server: Server) -> None:
    before = server.metrics()
    with ExitStack() as opened:
        streams = [
            opened.enter_context(server.stream("the cat", {**LONG, "n": 16}, stream=stream))
            for stream in (True, False, True, False)
        ]
        streams[0].arrived.get(timeout=TIMEOUT_SECONDS)
        for stream in streams:
            stream.cancel()
        await_metrics(
            server,
            lambda now: (
                now["sequences_finished_total:cancelled"] > before["sequences_finished_total:cancelled"]
                and now["running"] == now["waiting"] == now["kv_tokens_used"] == 0
            ),
        )


def test_a_deadline_is_a_fault(server: Server) -> None:
    # Refused at once where the request of the test before is still under way.
    with pytest.raises(Failed, match=r"(deadline_exceeded|queue_full) \[deadline_ms\]"):
        server.ask("the cat", {**LONG, "n": 16, "deadline_ms": 1})


def test_callers_and_priorities_are_taken(server: Server) -> None:
    turn = {"priority": "-5", "caller": "192.0.2.1"}
    expected = server.details("the cat", GREEDY)["choices"]
    assert server.details("the cat", {**GREEDY, **turn})["choices"] == expected
    assert server.details("the cat", {"top_k": 2, **turn}, operation="next")["candidates"]
    with pytest.raises(Failed, match=r"\[priority\]: 101 is out of range; it goes from -100 to 100"):
        server.ask("the cat", {"priority": 101})


def test_many_streams_at_once_are_each_answered_as_alone(server: Server) -> None:
    expected = server.details("the cat", {**GREEDY, "max_tokens": 40})["choices"][0]["token_ids"]
    with ExitStack() as opened:
        streams = [
            opened.enter_context(
                server.stream("the cat", {**GREEDY, "max_tokens": 40}, stream=True, return_token_ids=True)
            )
            for _ in range(16)
        ]
        for stream in streams:
            assert [token for item in stream.responses() for token in item["token_ids"]] == expected


def test_the_metrics_follow(server: Server) -> None:
    before = server.metrics()["generated_tokens_total"]
    server.ask("the cat", GREEDY)
    now = await_metrics(server, lambda now: now["generated_tokens_total"] >= before + 6)
    assert (now["slots"], now["kv_tokens_capacity"], now["stalled"]) == (2, 2 * 96, 0)
    assert now["kv_tokens_promised"] == 0
    assert now["kv_tokens_resident"] > 0


def test_a_version_that_does_not_answer_as_its_manifest_says_does_not_load(server: Server) -> None:
    shutil.copytree(server.repository / "lm", server.repository / "wrong")
    path = server.repository / "wrong" / "1" / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    manifest["variants"]["fp32"]["golden"][0]["token_ids"][0] += 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(InferenceServerException, match=r"golden prompt .* token 1 of"):
        server.load("wrong")
    assert server.client.is_model_ready("lm")


def await_metrics(server: Server, condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """Metrics are reported every second: ask until they say what is awaited."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < end:
        found = server.metrics()
        if condition(found):
            return found
    raise AssertionError(f"the metrics stay at {found}")
