"""`lmaas replay`: what it asks, and what it says of equal and different answers."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from cli import replay
from client.http import Client
from lmaas import app

DIGEST = "sha256:" + "a" * 64
REQUEST: dict[str, Any] = {
    "release": "1.2.3", "artifact": DIGEST, "variant": "int8", "kernels": "avx2", "exact_on": "any-processor",
    "prompt_token_ids": [5, 6], "parameters": {"seed": 3, "max_tokens": 2},
    "choices": [{"index": 0, "token_ids": [7, 8], "logprobs_sha256": "b" * 64, "finish_reason": "length"}],
}  # fmt: skip
RECEIPT: dict[str, Any] = {"model": "m", "version": 4, "requests": [REQUEST]}


class Answers:
    """An appliance; `found` is what it answers now."""

    def __init__(self) -> None:
        self.found = {**copy.deepcopy(REQUEST), "kernels": "avx512vnni"}
        self.deployments: list[dict[str, Any]] = [
            {"id": "d-0", "model": "m", "version": 3, "artifact": "sha256:" + "0" * 64},
            {"id": "d-1", "model": "renamed", "version": 9, "artifact": DIGEST},
        ]
        self.asked: dict[str, Any] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        match request.url.path:
            case "/v1/deployments":
                return httpx.Response(200, json={"data": self.deployments})
            case "/v1/models":
                return httpx.Response(200, json={"data": [{"id": "m", "versions": [3, 4]}]})
            case "/v1/models/m/versions/3":
                return httpx.Response(200, json={"variants": {"int8": {"artifact": "sha256:"}}})
            case "/v1/models/m/versions/4":
                return httpx.Response(200, json={"variants": {"int8": {"artifact": DIGEST}}})
        assert request.url.path == "/v1/generate"
        self.asked = json.loads(request.content)
        return httpx.Response(200, json={"receipt": {"requests": [self.found]}})


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    listed = Answers()

    @contextmanager
    def connect(url: str) -> Iterator[Client]:
        with httpx.Client(transport=httpx.MockTransport(listed), base_url=url) as http:
            yield Client(http=http)

    monkeypatch.setattr(replay, "Client", connect)
    return listed


def said(receipt: Any, *options: str, status: int = 0) -> str:
    """What it prints for a receipt on standard input, on one line."""
    ended = CliRunner().invoke(app, ["replay", "-", *options], input=json.dumps(receipt))
    assert ended.exit_code == status, ended.output
    return " ".join(ended.output.split())


@pytest.mark.parametrize("receipt", [RECEIPT, REQUEST, {"id": "x", "choices": [], "receipt": RECEIPT}])
def test_an_equal_answer(answers: Answers, receipt: Any) -> None:
    assert said(receipt) == (
        "equal: 2 tokens and their log-probabilities, to the last bit; computed by avx512vnni, at the time "
        "by avx2"
    )
    assert answers.asked == {
        "seed": 3, "max_tokens": 2, "prompt": [5, 6], "model": "renamed", "version": 9, "receipt": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"token_ids": [7, 9]}, "differs: at token 2 the receipt has 8, now it is 9"),
        ({"token_ids": [7]}, "differs: at token 2 the receipt has 8, now it is the end"),
        ({"token_ids": [7, 8, 1]}, "differs: at token 3 the receipt has the end, now it is 1"),
        ({"logprobs_sha256": "c" * 64}, "differs: the tokens are equal, their log-probabilities are not"),
        ({"finish_reason": "stop"}, "differs: ended by length, now by stop"),
    ],
)
def test_where_it_first_differs(answers: Answers, change: dict[str, Any], expected: str) -> None:
    answers.found["choices"][0] |= change
    assert said(RECEIPT, status=1).startswith(expected)


def test_the_second_prompt_and_choice_are_named(answers: Answers) -> None:
    request = copy.deepcopy(REQUEST)
    request["choices"].append({**request["choices"][0], "index": 1})
    answers.found["choices"] = [request["choices"][0], {**request["choices"][1], "token_ids": [1, 8]}]
    answered = json.loads(said({**RECEIPT, "requests": [request]}, "--json", status=1))
    difference = {"choice": 1, "position": 0, "receipt": 7, "now": 1, "what": "token"}
    assert answered["equal"] is False
    assert answered["requests"][0]["difference"] == difference
    printed = said({**RECEIPT, "requests": [request, request]}, status=1)
    assert "prompt 2: differs (choice 1): at token 1 the receipt has 7, now it is 1" in printed


def test_what_limits_a_receipt_is_said(answers: Answers) -> None:
    answers.found["choices"][0]["token_ids"] = [1]
    request = {**REQUEST, "exact_on": "same-processor"}
    assert "with the same instructions and the same ONNX Runtime" in said(request, status=1)


def test_an_artifact_that_is_not_deployed(answers: Answers) -> None:
    answers.deployments.pop()
    found = said(RECEIPT, status=1)
    assert found.endswith("is not deployed: lmaas deploy m --version 4 --precision int8")


def test_an_artifact_that_is_not_there(answers: Answers) -> None:
    answers.deployments.clear()
    found = said({**RECEIPT, "model": "gone"}, status=1)
    assert f"no deployment has the artifact {DIGEST} (gone/4 in int8): push the model" in found


def test_a_version_that_changes_meanwhile(answers: Answers) -> None:
    answers.found["artifact"] = "sha256:"
    assert "renamed/9 was replaced meanwhile" in said(RECEIPT, status=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "no receipt can be read"),
        ("[]", "neither a receipt nor an answer"),
        ('{"requests": []}', "neither a receipt nor an answer"),
        ('{"choices": []}', "neither a receipt nor an answer"),
        ('{"requests": [{"artifact": "x"}]}', "the receipt lacks variant, kernels, exact_on"),
        ('{"requests": [7]}', "the receipt lacks artifact"),
        (json.dumps({**REQUEST, "choices": [{}]}), "the receipt lacks index, token_ids, logprobs_sha256"),
    ],
)
def test_what_is_no_receipt(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "receipt.json"
    file.write_text(text)
    ended = CliRunner().invoke(app, ["replay", str(file)])
    assert ended.exit_code == 1
    assert expected in ended.output
