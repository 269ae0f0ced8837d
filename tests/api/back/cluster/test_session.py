"""Sessions beneath the façade: answers of a real Triton in order, and each request ends with one outcome."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import grpc
import pytest
from tritonclient.grpc import service_pb2

from api.back.backend import Backend
from api.back.cluster import session as session_module
from api.back.cluster import triton_client as module
from api.back.cluster.records import Target
from api.back.cluster.session import Session
from api.back.cluster.triton_client import TritonClient
from api.back.settings import BackSettings
from api.errors import ApiError, DeadlineExceeded, InvalidInput, ServerFault, Unavailable
from runtime.commands import SESSION, Submit, decode
from runtime.contract import LmTensors, Operation
from runtime.messages import Answer, Generated
from tests.api.back.cluster.requests import client, complete, language_model, stub_pids, until

pytestmark = pytest.mark.anyio
LONG = {"max_tokens": 60, "temperature": 0.0, "ignore_eos": True}
PROMPTS = [f"the {word}" for word in ("cat", "dog", "girl", "boy", "sun", "bird", "king", "tree")]
TINY = ("tiny", 1)


class Recorded(Session):
    """A session that keeps what it was asked and what it received."""

    opened: list[Recorded]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.opened.append(self)
        self.submitted: list[Submit] = []
        self.received: list[Any] = []

    def submit(self, command: Submit) -> Any:
        self.submitted.append(command)
        return super().submit(command)

    def _receive(self, response: Any) -> None:
        self.received.append(response)
        super()._receive(response)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """The sessions that are opened from now on."""
    Recorded.opened = []
    monkeypatch.setattr(module, "Session", Recorded)
    return Recorded.opened


async def tiny(backend: Backend) -> Target:
    """Deployed anew, so that its session is opened by the test."""
    for record in backend.cluster.deployments():
        if (record.model, record.version) == TINY:
            await backend.cluster.undeploy(record.id)
    await backend.cluster.deploy("tiny", 1, "auto")
    return language_model(backend, 1)


async def answers(
    backend: Backend, target: Target, *, stream: bool, text: str = "the cat"
) -> list[Generated]:
    answer = backend.cluster.generate(
        target, prompt=text, parameters=LONG, operation=Operation.GENERATE, stream=stream
    )
    return [piece async for piece in answer if isinstance(piece, Generated)]


def token_ids(found: list[Generated]) -> list[int]:
    return [token for answer in found for choice in answer.choices for token in choice.token_ids]


async def test_all_requests_to_a_version_share_one_session(backend: Backend, opened: list[Recorded]) -> None:
    target = await tiny(backend)
    expected = [token_ids(await answers(backend, target, stream=False, text=text)) for text in PROMPTS]
    found = await asyncio.gather(*(answers(backend, target, stream=True, text=text) for text in PROMPTS))
    assert [token_ids(answer) for answer in found] == expected
    for answer in found:
        assert [piece.usage is None for piece in answer] == [True] * (len(answer) - 1) + [False]
    (session,) = opened
    answered_once = len(session.submitted) - len(PROMPTS)  # probes are among them
    assert answered_once >= len(PROMPTS)
    assert len(session.received) < answered_once + sum(map(len, found))


async def test_who_leaves_or_is_refused_does_not_disturb_the_others(
    backend: Backend, opened: list[Recorded]
) -> None:
    target = await tiny(backend)
    expected = token_ids(await answers(backend, target, stream=False))
    other = asyncio.create_task(answers(backend, target, stream=True))
    answer = backend.cluster.generate(
        target, prompt="the cat", parameters=LONG, operation=Operation.GENERATE, stream=True
    )
    await anext(answer)
    await answer.aclose()
    with pytest.raises(InvalidInput) as caught:
        await complete(backend, target, nonsense=1)
    assert caught.value.errors[0].field == "nonsense"
    assert token_ids(await other) == expected
    assert [session.is_over for session in opened] == [False]


@pytest.mark.parametrize("stream", [True, False])
async def test_who_aborts_says_why_and_the_next_request_opens_a_session(
    backend: Backend, opened: list[Recorded], stream: bool
) -> None:
    target = await tiny(backend)
    text = "the little cat and the dog"  # no probe has it

    async def ask() -> list[Answer]:
        """Of the server itself: the cluster would send the request again."""
        answer = client(backend).generate(
            TINY, prompt=text, parameters=LONG, operation=Operation.GENERATE, stream=stream
        )
        return [piece async for piece in answer]

    asked = asyncio.ensure_future(ask())
    while not any(command.prompt == text for command in opened[0].submitted):
        await anyio.lowlevel.checkpoint()
    client(backend).abort(Unavailable("it died and is coming back", 2.0), TINY)
    with pytest.raises(Unavailable, match="it died and is coming back") as caught:
        await asked
    assert caught.value.retry_after == 2.0
    await until(lambda: backend.cluster.readiness().ready, "looked at, and found well")
    assert await complete(backend, target)
    assert len(opened) > 1
    assert (opened[0].is_over, opened[-1].is_over) == (True, False)


async def test_undeploying_ends_the_session_and_with_it_the_process(
    backend: Backend, opened: list[Recorded], cluster_settings: BackSettings
) -> None:
    target = await tiny(backend)
    with anyio.fail_after(30):
        await backend.cluster.undeploy(target.deployment_id)
        assert [session.is_over for session in opened] == [True]
        await until(lambda: not stub_pids(cluster_settings, *TINY), "gone")


async def test_a_full_session_ends_after_its_requests_and_another_takes_the_next(
    backend: Backend, opened: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_SESSION_BYTES", 4000)
    target = await tiny(backend)
    expected = [token_ids(await answers(backend, target, stream=False, text=text)) for text in PROMPTS]
    for _ in range(3):
        found = await asyncio.gather(*(answers(backend, target, stream=True, text=text) for text in PROMPTS))
        assert [token_ids(answer) for answer in found] == expected
    sessions = [session for session in opened if session._model_version == TINY]  # others may be full as well
    assert len(sessions) >= 3
    await until(lambda: all(session.is_over for session in sessions[:-1]), "over")


async def test_where_no_server_answers_the_request_fails() -> None:
    server = TritonClient("127.0.0.1:9", "key")
    answer = server.generate(TINY, prompt="", parameters={}, operation=Operation.GENERATE, stream=False)
    with pytest.raises(Unavailable):
        await anext(answer)
    assert server.outstanding() == 0
    await server.close()


class Stream:
    """As much of a grpc.aio.StreamStreamCall as a session uses; the test feeds it."""

    def __init__(self) -> None:
        self.responses: asyncio.Queue[Any] = asyncio.Queue()  # an exception is raised, None is the end
        self.sent: list[Any] = []
        self.cancelled = False

    def open(self, requests: AsyncIterator[Any]) -> Stream:
        self._sending = asyncio.create_task(self._send(requests))
        return self

    async def _send(self, requests: AsyncIterator[Any]) -> None:
        async for request in requests:
            self.sent.append(request)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        response = await self.responses.get()
        if isinstance(response, BaseException):
            raise response
        if response is None:
            raise StopAsyncIteration
        return response

    def cancel(self) -> None:
        self.cancelled = True
        self.responses.put_nowait(asyncio.CancelledError())  # as gRPC does

    async def everything_sent(self) -> list[Any]:
        """Once the session is over."""
        await self._sending
        return self.sent


def bundle(*messages: tuple[int, Any]) -> Any:
    content = json.dumps(messages).encode()
    response = service_pb2.ModelStreamInferResponse()
    response.infer_response.outputs.add(name=LmTensors.DETAILS, datatype="BYTES", shape=[1])
    response.infer_response.raw_output_contents.append(len(content).to_bytes(4, "little") + content)
    return response


def refusal(text: str, name: str = "") -> Any:
    """Of the request with that name."""
    response = service_pb2.ModelStreamInferResponse(error_message=text)
    response.infer_response.id = name
    return response


def commands(request: Any) -> list[tuple[int, Any]]:
    return decode(request.raw_input_contents[0][4:].decode())


def submit(prompt: str = "the cat") -> Submit:
    return Submit(prompt, Operation.GENERATE, {"seed": 1}, True)


def piece(number: int, *, last: bool = False) -> dict[str, Any]:
    return {"number": number, "usage": {} if last else None}


async def numbers(session: Session, prompt: str = "the cat") -> list[int]:
    return [details["number"] async for details in session.submit(submit(prompt))]


async def test_messages_go_to_their_requests_in_order() -> None:
    stream = Stream()
    session = Session(TINY, stream.open)
    both = asyncio.gather(numbers(session), numbers(session))
    await asyncio.sleep(0)
    stream.responses.put_nowait(bundle((1, piece(1)), (2, piece(1)), (1, piece(2))))
    stream.responses.put_nowait(bundle((2, piece(2, last=True)), (77, piece(9)), (1, piece(3, last=True))))
    assert list(await both) == [[1, 2, 3], [1, 2]]
    session.close(Unavailable("closed"))
    opening, *bringing = await stream.everything_sent()
    assert opening.raw_input_contents == [bytes(4)]
    assert {each.parameters[SESSION].string_param for each in bringing} == {
        opening.parameters[SESSION].string_param
    }
    assert [command for each in bringing for command in commands(each)] == [(1, submit()), (2, submit())]


@pytest.mark.parametrize(
    ("response", "failure"),
    [
        (bundle((1, "invalid_argument [x]: no")), InvalidInput),
        (bundle((1, "deadline_exceeded: after 5 ms")), DeadlineExceeded),
    ],
)
async def test_the_failure_of_one_request_is_not_that_of_another(
    response: Any, failure: type[ApiError]
) -> None:
    stream = Stream()
    session = Session(TINY, stream.open)
    failing, other = asyncio.create_task(numbers(session)), asyncio.create_task(numbers(session))
    await asyncio.sleep(0)
    stream.responses.put_nowait(response)
    with pytest.raises(failure):
        await failing
    stream.responses.put_nowait(bundle((2, piece(5, last=True))))
    assert await other == [5]
    session.close(Unavailable("closed"))
    _, *bringing = await stream.everything_sent()
    assert None not in [command for each in bringing for _, command in commands(each)]  # a cancellation


async def test_a_server_that_ends_refuses_the_next_request_and_answers_the_one_before() -> None:
    stream = Stream()
    session = Session(TINY, stream.open)
    first = asyncio.create_task(numbers(session))
    await until(lambda: len(stream.sent) == 2, "the first is sent")
    second = asyncio.create_task(numbers(session))
    await until(lambda: len(stream.sent) == 3, "the second is sent")
    stream.responses.put_nowait(
        refusal("Request for unknown model: 'tiny' is not at ready state", stream.sent[2].id)
    )
    with pytest.raises(Unavailable):
        await second
    assert session.is_full  # the next request opens another session
    assert not session.is_over
    stream.responses.put_nowait(bundle((1, piece(5, last=True))))
    assert await first == [5]
    assert session.is_over


@pytest.mark.parametrize("opening", [True, False])
async def test_a_refusal_of_the_session_or_by_a_dead_process_fails_all_requests(opening: bool) -> None:
    stream = Stream()
    session = Session(TINY, stream.open)
    request = asyncio.create_task(numbers(session))
    await until(lambda: len(stream.sent) == 2, "it is sent")
    text = "unknown model" if opening else "Stub process 'tiny_0_0' is not healthy."
    stream.responses.put_nowait(refusal(text, stream.sent[0 if opening else 1].id))
    with pytest.raises(Unavailable):
        await request
    assert session.is_over


async def test_who_leaves_cancels_by_a_message() -> None:
    stream = Stream()
    session = Session(TINY, stream.open)
    answer = session.submit(submit())
    stream.responses.put_nowait(bundle((1, piece(1))))
    assert (await anext(answer))["number"] == 1
    await answer.aclose()
    stream.responses.put_nowait(bundle((1, piece(2)), (1, "cancelled: by the caller")))
    await until(stream.responses.empty, "read")
    assert not session.is_over
    session.close(Unavailable("closed"))
    _, *bringing = await stream.everything_sent()
    assert [commands(each) for each in bringing] == [[(1, submit())], [(1, None)]]


async def test_what_waits_while_one_is_written_goes_together_up_to_a_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_module, "MAX_COMMANDS_BYTES", 250)
    stream = Stream()
    session = Session(TINY, stream.open)
    asked = [asyncio.create_task(numbers(session, text)) for text in ("a", "b", "c" * 300, "d")]
    await asyncio.sleep(0)
    stream.responses.put_nowait(bundle(*((key, piece(key, last=True)) for key in (1, 2, 3, 4))))
    assert await asyncio.gather(*asked) == [[1], [2], [3], [4]]
    session.close(Unavailable("closed"))
    _, *bringing = await stream.everything_sent()
    assert [[key for key, _ in commands(each)] for each in bringing] == [[1, 2], [3], [4]]


async def test_a_command_that_cannot_be_written_fails_alone() -> None:
    stream = Stream()
    session = Session(TINY, stream.open)
    with pytest.raises(ValueError, match="surrogates not allowed"):
        await numbers(session, "\ud800")
    assert not session.is_over
    session.close(Unavailable("closed"))
    await stream.everything_sent()


@pytest.mark.parametrize(
    ("end", "failure"),
    [
        (service_pb2.ModelStreamInferResponse(), Unavailable),
        (None, Unavailable),
        (refusal("no memory"), ServerFault),
        (refusal("Stub process 'tiny_0' is not healthy."), Unavailable),
        (
            grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata()),
            Unavailable,
        ),
        (bundle((1, piece(1))).infer_response, ServerFault),  # no message of that type is expected
    ],
)
async def test_a_session_that_ends_fails_each_request_once(end: Any, failure: type[ApiError]) -> None:
    stream = Stream()
    session = Session(TINY, stream.open)
    answer, waiting = session.submit(submit()), asyncio.create_task(numbers(session))
    first = asyncio.ensure_future(anext(answer))
    await asyncio.sleep(0)
    stream.responses.put_nowait(bundle((2, piece(1))))
    assert (await first)["number"] == 1
    stream.responses.put_nowait(end)
    for doomed in (anext(answer), waiting):
        with pytest.raises(failure):
            await doomed
    assert (session.is_over, stream.cancelled) == (True, True)
    with pytest.raises(StopAsyncIteration):
        await anext(answer)
    with pytest.raises(failure):
        await numbers(session)
    session.close(Unavailable("too late to be the reason"))
    with pytest.raises(failure):
        await numbers(session)
    await stream.everything_sent()


async def test_a_full_session_ends_with_its_last_request(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    session = Session(TINY, stream.open)
    first, second = asyncio.create_task(numbers(session)), asyncio.create_task(numbers(session))
    await asyncio.sleep(0)
    monkeypatch.setattr(session_module, "MAX_SESSION_BYTES", 2 * session_module.RESPONSE_BYTES)
    stream.responses.put_nowait(bundle((1, piece(1))))
    stream.responses.put_nowait(bundle((1, piece(2, last=True)), (2, piece(1))))
    assert await first == [1, 2]
    assert (session.is_full, session.is_over) == (True, False)
    stream.responses.put_nowait(bundle((2, piece(2, last=True))))
    assert await second == [1, 2]
    assert (session.is_over, stream.cancelled) == (True, True)
    await stream.everything_sent()


async def test_a_session_that_is_closed_before_it_began_leaves_no_stream() -> None:
    stream = Stream()
    session = Session(TINY, stream.open)
    session.close(Unavailable("too early"))
    assert stream.cancelled
    with pytest.raises(Unavailable, match="too early"):
        await numbers(session)
    await stream.everything_sent()
