"""Relays beneath the façade: pieces in order from a real Triton, and failures that reach all who wait."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anyio
import grpc
import pytest
from tritonclient.grpc import service_pb2

from api.back.backend import Backend
from api.back.cluster.arrivals import Arrivals
from api.back.cluster.records import Target
from api.back.cluster.relays import Relay
from api.back.settings import BackSettings
from api.errors import ApiError, InvalidInput, ServerFault, Unavailable
from runtime.contract import LmTensors, Operation, RelayParameters
from tests.api.back.cluster.requests import complete, language_model, stub_pids, until

pytestmark = pytest.mark.anyio
LONG = {"max_tokens": 60, "temperature": 0.0, "ignore_eos": True}


async def tiny(backend: Backend) -> Target:
    if not any(record.model == "tiny" for record in backend.cluster.deployments()):
        await backend.cluster.deploy("tiny", 1, "auto")
    return language_model(backend, 1)


async def opened(backend: Backend, target: Target) -> Relay:
    relays = backend.cluster._supervisor.server._relays
    await until(lambda: relays.to((target.model, target.version)), "a relay")
    relay = relays.to((target.model, target.version))
    assert relay is not None
    return relay


@pytest.fixture
def dealt(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What relays bring, as they bring it."""
    found: list[bytes] = []
    deal = Relay._deal

    def noted(self: Relay, content: bytes) -> None:
        found.append(content)
        deal(self, content)

    monkeypatch.setattr(Relay, "_deal", noted)
    return found


async def pieces(
    backend: Backend, target: Target, *, stream: bool, text: str = "the cat"
) -> list[dict[str, Any]]:
    answer = backend.cluster.generate(
        target, text=text, parameters=LONG, operation=Operation.GENERATE, stream=stream
    )
    return [details async for details in answer]


def token_ids(answers: list[dict[str, Any]]) -> list[int]:
    return [token for answer in answers for choice in answer["choices"] for token in choice["token_ids"]]


async def test_many_streams_get_their_own_tokens_in_order(backend: Backend, dealt: list[bytes]) -> None:
    target = await tiny(backend)
    await opened(backend, target)
    prompts = [f"the {word}" for word in ("cat", "dog", "girl", "boy", "sun", "bird", "king", "tree")]
    expected = [token_ids(await pieces(backend, target, stream=False, text=text)) for text in prompts]
    answers = await asyncio.gather(*(pieces(backend, target, stream=True, text=text) for text in prompts))
    assert [token_ids(answer) for answer in answers] == expected
    for answer in answers:
        assert [piece["usage"] is None for piece in answer] == [True] * (len(answer) - 1) + [False]
        assert RelayParameters.RELAYED not in answer[-1]
    assert sum(content.count(b'"choices"') for content in dealt) == sum(len(answer) - 1 for answer in answers)


async def test_a_single_answer_takes_no_relay(backend: Backend, dealt: list[bytes]) -> None:
    target = await tiny(backend)
    await opened(backend, target)
    dealt.clear()
    (answer,) = await pieces(backend, target, stream=False)
    assert len(token_ids([answer])) == LONG["max_tokens"]
    assert dealt == []


async def test_who_leaves_or_is_refused_leaves_the_relay(backend: Backend) -> None:
    target = await tiny(backend)
    relay = await opened(backend, target)
    answer = backend.cluster.generate(
        target, text="the cat", parameters=LONG, operation=Operation.GENERATE, stream=True
    )
    await anext(answer)
    assert len(relay._takers) == 1
    await answer.aclose()
    with pytest.raises(InvalidInput):
        await complete(backend, target, nonsense=1)
    assert relay._takers == {}
    assert not relay.ended


async def test_the_end_of_a_relay_fails_those_who_wait_for_it_and_another_opens(backend: Backend) -> None:
    target = await tiny(backend)
    relay = await opened(backend, target)
    got: list[Any] = []
    with relay.carrying(service_pb2.ModelInferRequest(), got.append):
        relay.close(Unavailable("closed by the test"))
        await until(lambda: got, "told")
    assert got[0].detail == "closed by the test"
    assert await opened(backend, target) is not relay
    assert await complete(backend, target) == await complete(backend, target, stream=False)


@pytest.mark.parametrize("stream", [True, False])
async def test_whoever_aborts_says_why(backend: Backend, stream: bool) -> None:
    target = await tiny(backend)
    await opened(backend, target)
    server = backend.cluster._supervisor.server
    asked = asyncio.ensure_future(pieces(backend, target, stream=stream))
    while not server.outstanding():
        await anyio.lowlevel.checkpoint()
    server.abort(Unavailable("it died and is coming back", 2.0), (target.model, target.version))
    with pytest.raises(Unavailable, match="it died and is coming back") as caught:
        await asked
    assert caught.value.retry_after == 2.0
    await until(lambda: backend.cluster.readiness().ready, "looked at, and found well")


class Stream:
    """As much of a grpc.aio.StreamStreamCall as a relay uses; it brings what it is given."""

    def __init__(self, *responses: Any) -> None:
        self._responses = list(responses)
        self.cancelled = False

    async def write(self, request: Any) -> None:
        pass

    async def read(self) -> Any:
        return self._responses.pop(0)

    def cancel(self) -> None:
        self.cancelled = True


def bundle(content: bytes | None) -> Any:
    response = service_pb2.ModelStreamInferResponse()
    if content is not None:
        response.infer_response.outputs.add(name=LmTensors.DETAILS, datatype="BYTES", shape=[1])
        response.infer_response.raw_output_contents.append(len(content).to_bytes(4, "little") + content)
    return response


@pytest.mark.parametrize(
    ("end", "failure"),
    [
        (bundle(None), Unavailable),
        (grpc.aio.EOF, Unavailable),
        (service_pb2.ModelStreamInferResponse(error_message="no memory"), ServerFault),
    ],
)
async def test_a_relay_that_the_server_ends_fails_those_who_wait_for_it(
    end: Any, failure: type[ApiError]
) -> None:
    stream = Stream(bundle(b'[[0,{"number":1}]]'), end)
    relay = Relay(("tiny", 1), stream)
    got: list[Any] = []
    request = service_pb2.ModelInferRequest()
    with relay.carrying(request, got.append):
        await until(lambda: relay.ended, "ended")
    assert request.parameters[RelayParameters.RELAY].string_param == relay.name
    assert request.parameters[RelayParameters.KEY].int64_param == 0
    assert got[0] == {"number": 1}
    assert [type(item) for item in got[1:]] == [failure]
    assert (relay.is_open, stream.cancelled) == (False, True)


async def test_a_relay_that_is_closed_before_it_began_leaves_no_stream() -> None:
    stream = Stream()
    relay = Relay(("tiny", 1), stream)
    relay.close(Unavailable("too early"))
    await until(lambda: relay.ended, "ended")
    assert stream.cancelled


async def test_undeploying_ends_the_relay_and_with_it_the_process(
    backend: Backend, cluster_settings: BackSettings
) -> None:
    target = await tiny(backend)
    relay = await opened(backend, target)
    with anyio.fail_after(5):
        await backend.cluster.undeploy(target.deployment_id)
        await until(lambda: relay.ended, "ended")
        await until(lambda: not stub_pids(cluster_settings, "tiny", 1), "gone")


async def test_a_last_answer_waits_for_the_pieces_before_it() -> None:
    last = {"usage": {"completion_tokens": 3}, RelayParameters.RELAYED: 2}
    arrivals = Arrivals(Stream(bundle(json.dumps(last).encode())))
    arrivals.put({"number": 1, "usage": None})
    assert (await arrivals.next())["number"] == 1
    waiting = asyncio.ensure_future(arrivals.next())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    arrivals.put({"number": 2, "usage": None})
    assert (await waiting)["number"] == 2
    assert await arrivals.next() == {"usage": {"completion_tokens": 3}}


async def test_an_error_of_the_relay_ends_the_wait() -> None:
    arrivals = Arrivals(Stream())
    arrivals.put(Unavailable("the relay ended"))
    with pytest.raises(Unavailable, match="the relay ended"):
        await arrivals.next()
    arrivals.close()
