"""Which streams are kept, taken again, and ended; and that a real Triton answers over a kept one."""

from __future__ import annotations

from typing import Any

import pytest

from api.back.backend import Backend
from api.back.cluster.records import Target
from api.back.cluster.streams import MOST_KEPT, Held, KeptStreams
from api.errors import InvalidInput, Unavailable
from runtime.contract import Operation
from tests.api.back.cluster.requests import complete, language_model

HELD = ("tiny", 1)
LONG = {"max_tokens": 60, "ignore_eos": True}


class Stream:
    """As much of a grpc.aio.StreamStreamCall as is asked for."""

    def __init__(self) -> None:
        self.ended = False

    def done(self) -> bool:
        return self.ended

    def cancel(self) -> None:
        self.ended = True


def test_a_stream_is_taken_again_by_the_same_version_only() -> None:
    streams = KeptStreams(Stream)
    first = streams.take(HELD)
    streams.keep(HELD, first)
    assert streams.take(("tiny", 2)) is not first
    assert streams.take(HELD) is first
    assert streams.take(HELD) is not first


def test_an_ended_stream_is_not_handed_out() -> None:
    streams = KeptStreams(Stream)
    before, after = streams.take(HELD), streams.take(HELD)
    before.cancel()
    streams.keep(HELD, before)
    streams.keep(HELD, after)
    after.cancel()
    assert not streams.take(HELD).done()


def test_more_than_the_most_are_ended() -> None:
    streams = KeptStreams(Stream)
    opened = [streams.take(HELD) for _ in range(MOST_KEPT + 1)]
    for stream in opened:
        streams.keep(HELD, stream)
    assert [stream.ended for stream in opened] == [False] * MOST_KEPT + [True]


def test_closing_ends_those_of_one_version_or_all() -> None:
    streams = KeptStreams(Stream)
    mine, other = streams.take(HELD), streams.take(("tiny", 2))
    streams.keep(HELD, mine)
    streams.keep(("tiny", 2), other)
    streams.close(HELD)
    assert (mine.ended, other.ended) == (True, False)
    streams.close()
    assert other.ended


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The streams that were taken back, and are put to use again; probes are among those who do."""
    found: list[Any] = []
    keep = KeptStreams.keep

    def noted(self: KeptStreams, held: Held, stream: Any) -> None:
        found.append(stream)
        keep(self, held, stream)

    monkeypatch.setattr(KeptStreams, "keep", noted)
    return found


async def tiny(backend: Backend) -> Target:
    if not any(record.model == "tiny" for record in backend.cluster.deployments()):
        await backend.cluster.deploy("tiny", 1, "auto")
    return language_model(backend)


@pytest.mark.anyio
async def test_requests_after_one_another_share_a_stream(backend: Backend, kept: list[Any]) -> None:
    target = await tiny(backend)
    answers = {await complete(backend, target) for _ in range(8)}
    assert len(answers) == 1
    assert len(kept) >= 8
    assert len({id(stream) for stream in kept}) < 8


@pytest.mark.anyio
async def test_a_stream_is_not_kept_whose_request_was_left_or_refused(backend: Backend) -> None:
    target = await tiny(backend)
    streams = backend.cluster._supervisor.server._streams
    taken: list[Any] = []
    take = streams.take

    def noted(held: Held) -> Any:
        taken.append(stream := take(held))
        return stream

    streams.take = noted  # type: ignore[method-assign]
    answer = backend.cluster.generate(
        target, text="the cat", parameters=LONG, operation=Operation.GENERATE, stream=True
    )
    await anext(answer)
    await answer.aclose()
    left = taken[0]
    with pytest.raises(InvalidInput):
        await complete(backend, target, nonsense=1)
    del streams.take
    assert left.done()
    assert sum(stream.done() for stream in taken) >= 2
    assert await complete(backend, target) == await complete(backend, target)


@pytest.mark.anyio
async def test_a_stream_that_ends_before_it_is_written_to_is_a_lost_connection(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = await tiny(backend)
    take = KeptStreams.take

    def ended(self: KeptStreams, held: Held) -> Any:
        stream = take(self, held)
        stream.cancel()
        return stream

    monkeypatch.setattr(KeptStreams, "take", ended)
    with pytest.raises(Unavailable, match="connection to the model server was lost"):
        await complete(backend, target)
    monkeypatch.undo()
    assert await complete(backend, target)


@pytest.mark.anyio
async def test_undeploying_ends_the_streams_to_the_version(backend: Backend, kept: list[Any]) -> None:
    target = await tiny(backend)
    await complete(backend, target)
    for record in backend.cluster.deployments():
        if record.model == "tiny":
            await backend.cluster.undeploy(record.id)
    assert kept
    assert all(stream.done() for stream in kept)
