"""Native Triton clients: those written for the vLLM backend work unchanged; heads are ordinary models."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.e2e.appliance import Appliance


@pytest.fixture(scope="module")
def client(appliance: Appliance) -> Iterator[triton.InferenceServerClient]:
    address = appliance.http.get("/v1/servers").json()["data"][0]["grpc_address"]
    with triton.InferenceServerClient(address) as opened:
        yield opened


def text_tensor(name: str, *texts: str, batched: bool = False) -> triton.InferInput:
    values = np.array([text.encode() for text in texts], dtype=np.object_)
    tensor = triton.InferInput(name, [1, len(texts)] if batched else [len(texts)], "BYTES")
    tensor.set_data_from_numpy(values.reshape(1, -1) if batched else values)
    return tensor


def flag(name: str, value: bool) -> triton.InferInput:
    tensor = triton.InferInput(name, [1], "BOOL")
    tensor.set_data_from_numpy(np.array([value]))
    return tensor


def stream(client: triton.InferenceServerClient, inputs: list[triton.InferInput]) -> list[triton.InferResult]:
    """Send one request on a stream and collect its responses up to the final one."""
    answers: queue.Queue[tuple[triton.InferResult | None, InferenceServerException | None]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    try:
        client.async_stream_infer("mini-lm", inputs, enable_empty_final_response=True)
        results = []
        while True:
            result, error = answers.get(timeout=30)
            if error is not None:
                raise error
            assert result is not None
            final = result.get_response().parameters["triton_final_response"].bool_param
            if result.as_numpy("text_output") is not None:
                results.append(result)
            if final:
                return results
    finally:
        client.stop_stream()


def generation(stream_it: bool, **parameters: object) -> list[triton.InferInput]:
    return [
        text_tensor("text_input", "Once upon a time"),
        flag("stream", stream_it),
        text_tensor("sampling_parameters", json.dumps(parameters)),
        flag("exclude_input_in_output", True),
    ]


def test_a_vllm_client_s_request_streams(client: triton.InferenceServerClient) -> None:
    # The sampling parameters are strings, as the vLLM backend's own sample client sends them.
    # The answer is long, since tokens that become ready while one is sent share the next piece.
    pieces = stream(client, generation(True, temperature="0", max_tokens="300"))
    whole = stream(client, generation(False, temperature="0", max_tokens="300"))
    assert len(whole) == 1
    assert len(pieces) > 3
    texts = [piece.as_numpy("text_output")[0].decode() for piece in pieces]
    assert "".join(texts) == whole[0].as_numpy("text_output")[0].decode()


def test_switches_bring_their_outputs(client: triton.InferenceServerClient) -> None:
    inputs = [
        *generation(False, temperature=0, max_tokens=5),
        flag("return_finish_reason", True),
        flag("return_num_output_tokens", True),
    ]
    (answer,) = stream(client, inputs)
    assert answer.as_numpy("finish_reason")[0] == b"length"
    assert answer.as_numpy("num_output_tokens")[0] == 5


def test_a_bad_parameter_is_named(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"invalid_argument \[top_p\]"):
        stream(client, generation(False, top_p=3))


def test_only_the_facade_controls_it(appliance: Appliance, client: triton.InferenceServerClient) -> None:
    for control in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="This protocol is restricted"):
            control("mini-lm")
    (server,) = appliance.http.get("/v1/servers").json()["data"]
    assert server["http_address"] is None
    environment = psutil.Process(server["pid"]).environ()
    (key,) = {value.rpartition("lmaas-key=")[2] for value in environment.values() if "lmaas-key=" in value}
    assert len(key) == 64
    shown = [appliance.http.get(path).text for path in ("/v1/servers", "/metrics", "/health/ready")]
    shown += [log.read_text() for log in (appliance.log, appliance.home / "logs" / "triton-0.log")]
    for process in appliance.processes():
        with suppress(psutil.NoSuchProcess):  # it ended, or is a zombie
            shown.append(" ".join(process.cmdline()))
    assert not [text for text in shown if key in text]


def test_heads_are_ordinary_batched_models(client: triton.InferenceServerClient) -> None:
    answer = client.infer("mini-sentiment", [text_tensor("text", "a wonderful film", batched=True)])
    assert answer.as_numpy("scores").shape == (1, 2)
    assert answer.as_numpy("label")[0, 0] == b"positive"
    nlu = client.infer("mini-nlu", [text_tensor("text", "what is the weather in Boston", batched=True)])
    assert nlu.as_numpy("label")[0, 0] == b"GetWeather"
    assert isinstance(json.loads(nlu.as_numpy("slots")[0, 0]), list)
