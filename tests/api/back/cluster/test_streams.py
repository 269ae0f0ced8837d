"""Which streams are kept, taken again, and ended; and that a real Triton answers over a kept one."""

from __future__ import annotations

import pytest

from api.back.backend import Backend
from api.back.cluster.streams import MOST_KEPT, KeptStreams
from tests.api.back.cluster.requests import complete, language_model

HELD = ("tiny", 1)


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


@pytest.mark.anyio
async def test_requests_after_one_another_share_a_stream(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(record.model == "tiny" for record in backend.cluster.deployments()):
        await backend.cluster.deploy("tiny", 1, "auto")
    target = language_model(backend)
    expected = await complete(backend, target)
    opened = []
    open_stream = KeptStreams.take

    def counted(self: KeptStreams, held: tuple[str, int]) -> object:
        opened.append(stream := open_stream(self, held))
        return stream

    monkeypatch.setattr(KeptStreams, "take", counted)
    assert [await complete(backend, target) for _ in range(3)] == [expected] * 3
    assert opened[0] is opened[1] is opened[2]
