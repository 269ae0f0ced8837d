"""When answers are sent: at once to few, together to many, and a last one never waits."""

from __future__ import annotations

import threading
import time

from runtime.contract import FinishReason
from runtime.messages import Answer, Generated
from runtime.output_thread import OutputThread
from runtime.pacing import ANSWERS_PER_SECOND, FREE_STREAMS, MAX_PAUSE_SECONDS
from runtime.request import Request
from runtime.request_state import Event, RequestState, TokenEvent
from runtime.sampling import Sampled
from tests.runtime.engines import Collector

STOP = 7


class Counting:
    """An output processor that answers with nothing but the end; the token STOP completes a stop string."""

    def __init__(self) -> None:
        self.complete = False
        self._news = False

    def add(self, event: Event) -> None:
        self._news = True
        self.complete = isinstance(event, TokenEvent) and (
            event.reason is not None or event.sampled.token_id == STOP
        )

    def next_answer(self) -> tuple[Answer, bool] | None:
        if not self._news:
            return None
        self._news = False
        return Generated(1, [], None, None), self.complete


def state(number: int) -> tuple[RequestState, Collector]:
    sink = Collector()
    request = RequestState(Request(str(number), "x", stream=True), sink, [1])
    request.output = Counting()
    return request, sink


def token(request: RequestState, reason: FinishReason | None = None, token_id: int = 1) -> Event:
    return TokenEvent(request, 0, Sampled(token_id, 0.0, []), reason)


def opened(count: int) -> tuple[OutputThread, list[tuple[RequestState, Collector]], threading.Event]:
    ended = threading.Event()
    thread = OutputThread(lambda request: ended.set(), lambda request, fault: None)
    return thread, [state(number) for number in range(count)], ended


def test_few_streams_get_every_token_at_once() -> None:
    thread, streams, _ = opened(FREE_STREAMS)
    for count in range(1, 6):
        thread.process([token(request) for request, _ in streams])
        assert {len(sink.answers) for _, sink in streams} == {count}
    thread.close()


def test_many_streams_share_a_rate_and_what_is_held_comes_without_a_further_event() -> None:
    count = 50
    thread, streams, _ = opened(count)
    begin = time.monotonic()
    for _ in range(20):
        thread.put([token(request) for request, _ in streams])
        time.sleep(0.002)  # a step
    deadline = begin + 30
    while not all(len(sink.answers) >= 2 for _, sink in streams) and time.monotonic() < deadline:
        time.sleep(0.005)
    sent = sum(len(sink.answers) for _, sink in streams)
    taken = time.monotonic() - begin
    assert all(len(sink.answers) >= 2 for _, sink in streams)
    assert sent <= 2 * count + ANSWERS_PER_SECOND * taken * count / (count - FREE_STREAMS)
    thread.close()


def test_no_stream_waits_longer_than_the_longest_pause() -> None:
    count = 2500
    thread, streams, _ = opened(count)
    # What a second answer would wait for but for the longest pause: ten seconds.
    shared = (count - FREE_STREAMS) / ANSWERS_PER_SECOND
    begin = time.monotonic()
    thread.process([token(request) for request, _ in streams])
    thread.put([token(request) for request, _ in streams])
    while not all(len(sink.answers) == 2 for _, sink in streams) and time.monotonic() < begin + 30:
        time.sleep(0.005)
    assert MAX_PAUSE_SECONDS <= time.monotonic() - begin < shared
    thread.close()


def test_streams_that_began_at_different_times_are_sent_to_together() -> None:
    sent: list[int] = []
    streams = [state(number) for number in range(20)]
    thread = OutputThread(
        lambda request: None,
        lambda request, fault: None,
        lambda: sent.append(sum(len(sink.answers) for _, sink in streams)),
    )
    for stream in streams:
        thread.process([token(stream[0])])
        time.sleep(0.001)
    time.sleep((20 - FREE_STREAMS) / ANSWERS_PER_SECOND)  # all may be sent to: one turn for all from now on
    begun, deadline = len(sent), time.monotonic() + 30
    while sent[-1] < 60 and time.monotonic() < deadline:
        thread.put([token(request) for request, _ in streams])
        time.sleep(0.002)
    assert sent[-1] >= 60
    assert {count % len(streams) for count in sent[begun:]} == {0}
    thread.close()


def test_first_and_last_answers_are_delivered_before_those_of_a_turn() -> None:
    delivered: list[list[int]] = []
    streams = [state(number) for number in range(FREE_STREAMS)]
    thread = OutputThread(
        lambda request: None,
        lambda request, fault: None,
        lambda: delivered.append([len(sink.answers) for _, sink in streams]),
    )
    thread.process([token(request) for request, _ in streams[1:]])
    reasons = [None, None, FinishReason.LENGTH, None]
    thread.process([token(request, reason) for (request, _), reason in zip(streams, reasons, strict=True)])
    assert [counts for counts in delivered if sum(counts) > 3] == [[1, 1, 2, 1], [1, 2, 2, 2]]
    thread.close()


def test_a_defect_in_sending_on_ends_no_delivery() -> None:
    def broken() -> None:
        raise RuntimeError("the session is broken")

    thread = OutputThread(lambda request: None, lambda request, fault: None, broken)
    request, sink = state(0)
    thread.put([token(request)])
    thread.put([token(request, FinishReason.LENGTH)])
    thread.close()
    assert sink.ends == 1


def test_the_last_answer_does_not_wait() -> None:
    thread, streams, ended = opened(50)
    thread.process([token(request) for request, _ in streams])
    request, sink = streams[7]
    thread.process([token(request), token(request, FinishReason.LENGTH)])
    assert sink.ends == 1
    assert ended.is_set()
    thread.close()


def test_nor_does_one_that_a_stop_string_completes() -> None:
    thread, streams, ended = opened(50)
    thread.process([token(request) for request, _ in streams])
    request, sink = streams[7]
    thread.process([token(request, token_id=STOP)])
    assert sink.ends == 1
    assert ended.is_set()
    thread.close()


class Broken(Collector):
    """Takes nothing but the news of a failure."""

    def send(self, answer: Answer, *, final: bool) -> None:
        raise OSError("the other side is gone")


def test_closing_ends_every_request_that_was_held() -> None:
    thread, streams, _ = opened(50)
    thread.process([token(request) for request, _ in streams])
    broken = []
    for request, _ in streams:
        request.sink = sink = Broken()
        broken.append(sink)
    thread.process([token(request) for request, _ in streams])
    thread.close()
    assert [sink.ends for sink in broken] == [1] * 50
