"""Requests to a real Triton through its own client."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as grpc

from api.back.cluster.server_home import Ports
from api.back.cluster.triton_command import GRPC_PREFIX, KEY_HEADER

TIMEOUT_SECONDS = 30.0
Outputs = dict[str, list[Any]]


class Failed(Exception):
    """The error that ended a request."""


@dataclass
class Stream:
    """A gRPC stream to `lm`, and what arrived on it."""

    client: Any
    arrived: queue.Queue[tuple[Any, Any]] = field(default_factory=queue.Queue)

    def send(
        self,
        text: str | bytes,
        parameters: Mapping[str, Any] | str | None = None,
        *,
        outputs: tuple[str, ...] = (),
        of_request: Mapping[str, str | int] | None = None,
        **flags_and_operation: bool | str,
    ) -> None:
        """`of_request` are the request's own parameters, outside its tensors."""
        inputs = [text_input("text_input", text)]
        if parameters is not None:
            sent = parameters if isinstance(parameters, str) else json.dumps(parameters)
            inputs.append(text_input("sampling_parameters", sent))
        for name, value in flags_and_operation.items():
            inputs.append(flag_input(name, value) if isinstance(value, bool) else text_input(name, value))
        wanted = [grpc.InferRequestedOutput(name) for name in outputs] or None
        self.client.async_stream_infer(
            "lm", inputs, outputs=wanted, parameters=of_request, enable_empty_final_response=True
        )

    def responses(self) -> list[Outputs]:
        """Wait for all of the only request; raises Failed where it fails."""
        found: list[Outputs] = []
        while True:
            outputs, final = self.next()
            found += [outputs] if outputs else []
            if final:
                return found

    def next(self) -> tuple[Outputs, bool]:
        """One response, and whether it is the last of its request; raises Failed."""
        result, error = self.arrived.get(timeout=TIMEOUT_SECONDS)
        if error is not None:
            raise Failed(str(error))
        response = result.get_response()
        outputs = {item.name: result.as_numpy(item.name).tolist() for item in response.outputs}
        return outputs, response.parameters["triton_final_response"].bool_param

    def cancel(self) -> None:
        self.client.stop_stream(cancel_requests=True)


@dataclass
class Server:
    client: Any
    ports: Ports
    repository: Path
    key: str

    def load(self, model: str) -> None:
        self.client.load_model(model, headers={f"{GRPC_PREFIX}{KEY_HEADER}": self.key})

    @contextmanager
    def connect(self) -> Iterator[Stream]:
        with grpc.InferenceServerClient(f"127.0.0.1:{self.ports.grpc}") as client:
            stream = Stream(client)
            client.start_stream(lambda result, error: stream.arrived.put((result, error)))
            yield stream

    @contextmanager
    def stream(self, text: str | bytes, *arguments: Any, **options: Any) -> Iterator[Stream]:
        """A stream with one request, as `Stream.send` takes it."""
        with self.connect() as stream:
            stream.send(text, *arguments, **options)
            yield stream

    def ask(self, text: str | bytes, *arguments: Any, **options: Any) -> list[Outputs]:
        with self.stream(text, *arguments, **options) as stream:
            return stream.responses()

    def details(self, text: str | bytes, *arguments: Any, **options: Any) -> dict[str, Any]:
        (response,) = self.ask(text, *arguments, outputs=("details",), **options)
        details: dict[str, Any] = json.loads(response["details"][0])
        return details

    def metrics(self) -> dict[str, float]:
        """The engine's, by name, with the reason behind a colon where there is one."""
        text = httpx.get(f"http://127.0.0.1:{self.ports.metrics}/metrics", trust_env=False).text
        found = {}
        for line in text.splitlines():
            if line.startswith("lmaas_engine_"):
                name, _, rest = line.removeprefix("lmaas_engine_").partition("{")
                labels, _, value = rest.partition("} ")
                assert 'model="lm"' in labels
                assert 'version="1"' in labels
                reason = labels.partition('reason="')[2].partition('"')[0]
                found[f"{name}:{reason}" if reason else name] = float(value)
        return found


def text_input(name: str, value: str | bytes, shape: tuple[int, ...] = (1,)) -> Any:
    tensor = grpc.InferInput(name, list(shape), "BYTES")
    content = value.encode() if isinstance(value, str) else value
    tensor.set_data_from_numpy(np.array([content], np.object_).reshape(shape))
    return tensor


def flag_input(name: str, value: bool) -> Any:
    tensor = grpc.InferInput(name, [1], "BOOL")
    tensor.set_data_from_numpy(np.array([value]))
    return tensor
