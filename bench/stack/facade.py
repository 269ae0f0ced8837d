"""What the façade adds to the time until the first token: one stream over HTTP, one over Triton's own gRPC.

Each client keeps one connection or one gRPC stream open. The texts differ, so that no prompt is found in the
cache, but have the same number of tokens.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Iterator
from queue import SimpleQueue
from statistics import median
from typing import Annotated, Any

import grpc
import typer
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench.stack.report import Bound, MaxTokens, Model, Name, Pid, PromptTokens, Report, Target, publish
from bench.stack.running import Stack, fresh_seed
from cli.command import Url
from client.http import DEFAULT_URL
from perf.deployed import Deployed, grpc_address
from perf.distribution import Distribution
from perf.errors import LoadError
from perf.http.ask import Api, Ask, Task
from perf.http.outcome import read
from perf.http.prompts import Texts
from perf.http.run import in_event_loop
from perf.http.wire import Connection, Exchange, Origin, connect
from perf.report import markdown_table
from runtime.contract import Kind, LmTensors

TARGET = Target("the façade adds to the median first token", Bound.AT_MOST, 1.5, ".2f", " ms")
TIMEOUT = 60.0  # seconds of one request
WARMUP = 5  # pairs that are not counted


def facade(
    model: Model = None,
    pairs: Annotated[int, typer.Option(help="Of requests, one over HTTP and one over gRPC.", min=1)] = 200,
    prompt_tokens: PromptTokens = 32,
    max_tokens: MaxTokens = 4,
    url: Url = DEFAULT_URL,
    pid: Pid = None,
    name: Name = "stack-facade",
) -> None:
    stack = Stack.find(url, pid)
    deployed = stack.deployed(Kind.LM, model)
    ask = Ask(Task.GENERATE, max_tokens, ignore_eos=True)
    texts = Texts(0, prompt_tokens, str(stack.folder(deployed)))
    address = grpc_address(stack.url, deployed)
    http, native = in_event_loop(_pairs(stack.origin, address, deployed, ask, texts, pairs))
    between_medians = 1000 * (median(http) - median(native))
    each = [1000 * (one - other) for one, other in zip(http, native, strict=True)]
    rows = [(name, *_milliseconds(times)) for name, times in (("HTTP", http), ("gRPC", native))]
    report = Report(
        f"{deployed.label}, {stack.slots(deployed)} slots, {pairs} pairs of single requests in turn,"
        f" {ask.described(texts)}. Milliseconds from sending a request to its first token. What is added is"
        f" the median of the differences pair by pair; that of the medians is {between_medians:.2f} ms.",
        [(TARGET, median(each))],
        markdown_table(("", "least", "p50", "p90", "p99"), rows),
        {"http_seconds": http, "grpc_seconds": native},
    )
    publish(name, report)


def _milliseconds(times: list[float]) -> list[str]:
    found = Distribution.of(times)
    if found is None:
        raise AssertionError("there is one pair or more")
    return [f"{1000 * value:.2f}" for value in (found.least, found.p50, found.p90, found.p99)]


async def _pairs(
    origin: Origin, address: str, deployed: Deployed, ask: Ask, texts: Texts, pairs: int
) -> tuple[list[float], list[float]]:
    """Seconds until the first token over HTTP and over gRPC; the order changes from pair to pair."""
    drawn = texts.draw(fresh_seed("facade"))
    http, native = await HttpCaller.open(origin, ask, deployed.model), NativeCaller(address, deployed, ask)
    found: tuple[list[float], list[float]] = ([], [])
    try:
        for number in range(WARMUP + pairs):
            for place in (0, 1) if number % 2 else (1, 0):
                text = next(drawn)
                seconds = native.first_token(text) if place else await http.first_token(text)
                if number >= WARMUP:
                    found[place].append(seconds)
    finally:
        http.close()
        native.close()
    return found


class HttpCaller:
    """One kept connection to the façade."""

    def __init__(self, origin: Origin, ask: Ask, model: str) -> None:
        self._origin, self._ask, self._model = origin, ask, model
        self._ended: asyncio.Queue[Exchange] = asyncio.Queue()
        self._connection: Connection

    @classmethod
    async def open(cls, origin: Origin, ask: Ask, model: str) -> HttpCaller:
        """Raises LoadError."""
        caller = cls(origin, ask, model)
        connection = await connect(origin, TIMEOUT, lambda _, exchange: caller._ended.put_nowait(exchange))
        if connection is None:
            raise LoadError("no connection to the façade")
        caller._connection = connection
        return caller

    async def first_token(self, text: str) -> float:
        """Seconds; returns when the whole answer is there. Raises LoadError."""
        body = json.dumps(self._ask.body(text, Api.LMAAS, self._model)).encode()
        request = self._origin.post(self._ask.path(Api.LMAAS), body)
        self._connection.start(Exchange(time.perf_counter()), request, TIMEOUT)
        outcome = read(await self._ended.get(), self._ask, Api.LMAAS)
        if outcome.error is not None:
            raise LoadError(f"over HTTP: {outcome.error}")
        return outcome.arrivals[0][0] - outcome.sent

    def close(self) -> None:
        self._connection.close()


class NativeCaller:
    """One kept gRPC stream to Triton. It blocks the event loop, which has nothing else to do."""

    def __init__(self, address: str, deployed: Deployed, ask: Ask) -> None:
        self._deployed, self._ask = deployed, ask
        self._channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self._requests: SimpleQueue[Any] = SimpleQueue()
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._responses: Iterator[Any] = stub.ModelStreamInfer(iter(self._requests.get, None))

    def first_token(self, text: str) -> float:
        """Seconds; returns when the whole answer is there. Raises LoadError."""
        request = generate_request(self._deployed, self._ask, text)
        sent, first = time.perf_counter(), None
        self._requests.put(request)
        for response in self._responses:
            now = time.perf_counter()
            if response.error_message:
                raise LoadError(f"over gRPC: {response.error_message}")
            first = first or now
            if response.infer_response.parameters["triton_final_response"].bool_param:
                return first - sent
        raise LoadError("over gRPC: the stream ended early")

    def close(self) -> None:
        self._requests.put(None)
        self._channel.close()


def generate_request(deployed: Deployed, ask: Ask, text: str) -> Any:
    """As the façade sends it; an empty last response marks the end."""
    request = service_pb2.ModelInferRequest(model_name=deployed.model, model_version=str(deployed.version))
    texts = {LmTensors.TEXT_INPUT: text, LmTensors.SAMPLING_PARAMETERS: json.dumps(ask.sampling)}
    for name, value in texts.items():
        content = value.encode()
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(struct.pack("<I", len(content)) + content)
    request.inputs.add(name=LmTensors.STREAM, datatype="BOOL", shape=[1])
    request.raw_input_contents.append(struct.pack("?", True))
    request.outputs.add(name=LmTensors.DETAILS)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request
