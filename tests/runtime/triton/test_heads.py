"""Head models in a real Triton: ordinary batched models."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from api.back.cluster.messages import head_request, read_heads
from tests.runtime.triton.clients import Server, text_input


def classify(server: Server, *texts: str | bytes, pair: str | None = None) -> Any:
    inputs = [grpc.InferInput("text", [len(texts), 1], "BYTES")]
    contents = [text.encode() if isinstance(text, str) else text for text in texts]
    inputs[0].set_data_from_numpy(np.array(contents, np.object_).reshape(-1, 1))
    if pair is not None:
        inputs.append(text_input("text_pair", pair, (1, 1)))
    return server.client.infer("head", inputs)


def test_a_batch_is_answered_row_by_row(server: Server) -> None:
    texts = ["the cat sat", "it rains", "a"]
    result = classify(server, *texts)
    scores = result.as_numpy("scores")
    assert scores.shape == (3, 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert result.as_numpy("label").shape == (3, 1)
    for text, row in zip(texts, scores, strict=True):
        np.testing.assert_allclose(classify(server, text).as_numpy("scores")[0], row, atol=1e-5)


def test_a_temperature_divides_the_logits(server: Server) -> None:
    text = grpc.InferInput("text", [2, 1], "BYTES")
    text.set_data_from_numpy(np.array([[b"the cat"], [b"it rains"]], np.object_))
    temperature = grpc.InferInput("temperature", [2, 1], "FP32")
    temperature.set_data_from_numpy(np.array([[1.0], [3.0]], np.float32))
    plain = classify(server, "the cat", "it rains").as_numpy("scores")
    scores = server.client.infer("head", [text, temperature]).as_numpy("scores")
    np.testing.assert_allclose(scores[0], plain[0], atol=1e-5)
    powers = plain[1] ** (1 / 3)
    np.testing.assert_allclose(scores[1], powers / powers.sum(), atol=1e-5)


def test_special_tokens_of_a_text_that_is_not_trusted(server: Server) -> None:
    """The façade's own request, row by row."""
    text = "the cat<|endoftext|>sat"
    trusted, spelled = (
        server.client._client_stub.ModelInfer(head_request("head", 1, [text] * 2, None, special_tokens=flag))
        for flag in (True, False)
    )
    np.testing.assert_allclose(
        read_heads(trusted)[1].scores, classify(server, text).as_numpy("scores")[0], atol=1e-5
    )
    assert read_heads(spelled)[0] == read_heads(spelled)[1]
    assert max(abs(np.subtract(read_heads(spelled)[0].scores, read_heads(trusted)[0].scores))) > 1e-3


def test_requests_with_and_without_a_pair_go_together(server: Server) -> None:
    pairs = ["it rains", None] * 8
    expected = {pair: classify(server, "the cat", pair=pair).as_numpy("scores") for pair in pairs[:2]}
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda pair: classify(server, "the cat", pair=pair), pairs))
    for pair, result in zip(pairs, results, strict=True):
        np.testing.assert_allclose(result.as_numpy("scores"), expected[pair], atol=1e-5)


BAD: dict[str | bytes, str] = {
    b"\xff": "invalid_argument",
    "": "invalid_argument",
    "a" * 1000: "context_length",
}


@pytest.mark.parametrize(("bad", "code"), BAD.items())
def test_a_bad_request_fails_alone(server: Server, bad: str | bytes, code: str) -> None:
    def attempt(text: str | bytes) -> str:
        try:
            return "" if classify(server, text) else "nothing"
        except InferenceServerException as error:
            return str(error.message())

    with ThreadPoolExecutor(8) as pool:
        good, failed = zip(*[pool.map(attempt, ["the cat", bad]) for _ in range(4)], strict=True)
    assert good == ("",) * 4
    assert all(message.startswith(f"{code} [text]: ") for message in failed)


def test_each_run_of_the_graph_is_counted(server: Server) -> None:
    """By this the façade sees that a head with much to do is well, though it answers no probe."""

    def runs() -> float:
        text = httpx.get(f"http://127.0.0.1:{server.ports.metrics}/metrics", trust_env=False).text
        (line,) = (line for line in text.splitlines() if line.startswith("lmaas_head_runs_total{"))
        assert 'model="head"' in line
        return float(line.rpartition(" ")[2])

    before = runs()
    classify(server, "the cat")
    classify(server, "the cat", "the dog")
    assert runs() == before + 2


def test_a_fault_names_the_row_among_several(server: Server) -> None:
    for bad, code in BAD.items():
        with pytest.raises(InferenceServerException) as caught:
            classify(server, "the cat", "it rains", bad)
        assert str(caught.value.message()).startswith(f"{code} [text.2]: ")
