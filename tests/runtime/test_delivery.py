"""When answers are sent: at once to few, together to many, and a last one never waits."""

from __future__ import annotations

import threading
import time

from runtime.answers import Answer, Generated
from runtime.contract import FinishReason
from runtime.delivery import FREELY_SENT, LONGEST_PAUSE, SENT_PER_SECOND, Delivery
from runtime.live import Event, LiveRequest, TokenEvent
from runtime.request import Request
from runtime.sampling import Sampled
from tests.runtime.engines import Collector

STOP = 7


class Counting:
    """An assembly that answers with nothing but the end; the token STOP completes a stop string."""

    def __init__(self) -> None:
        self.complete = False
        self._news = False

    def add(self, event: Event) -> None:
        self._news = True
        self.complete = isinstance(event, TokenEvent) and (
            event.reason is not None or event.sampled.token_id == STOP
        )

    def take(self) -> tuple[Answer, bool] | None:
        if not self._news:
            return None
        self._news = False
        return Generated(1, [], None, None), self.complete


def live(number: int) -> tuple[LiveRequest, Collector]:
    sink = Collector()
    request = LiveRequest(Request(str(number), "x", stream=True), sink, [1])
    request.assembly = Counting()
    return request, sink


def token(request: LiveRequest, reason: FinishReason | None = None, token_id: int = 1) -> Event:
    return TokenEvent(request, 0, Sampled(token_id, 0.0, []), reason)


def opened(count: int) -> tuple[Delivery, list[tuple[LiveRequest, Collector]], threading.Event]:
    ended = threading.Event()
    delivery = Delivery(lambda request: ended.set(), lambda request, fault: None)
    return delivery, [live(number) for number in range(count)], ended


def test_few_streams_get_every_token_at_once() -> None:
    delivery, streams, _ = opened(FREELY_SENT)
    for count in range(1, 6):
        delivery.deliver([token(request) for request, _ in streams])
        assert {len(sink.answers) for _, sink in streams} == {count}
    delivery.close()


def test_many_streams_share_a_rate_and_what_is_held_comes_without_a_further_event() -> None:
    count = 50
    delivery, streams, _ = opened(count)
    begin = time.monotonic()
    for _ in range(20):
        delivery.put([token(request) for request, _ in streams])
        time.sleep(0.002)  # a step
    deadline = begin + 30
    while not all(len(sink.answers) >= 2 for _, sink in streams) and time.monotonic() < deadline:
        time.sleep(0.005)
    taken = time.monotonic() - begin
    sent = sum(len(sink.answers) for _, sink in streams)
    assert all(len(sink.answers) >= 2 for _, sink in streams)
    assert sent <= 2 * count + SENT_PER_SECOND * taken * count / (count - FREELY_SENT)
    delivery.close()


def test_no_stream_waits_longer_than_the_longest_pause() -> None:
    count = 400
    delivery, streams, _ = opened(count)
    delivery.deliver([token(request) for request, _ in streams])
    begin = time.monotonic()
    delivery.put([token(request) for request, _ in streams])
    shared = (count - FREELY_SENT) / SENT_PER_SECOND  # what a second answer would wait for but for the pause
    while not all(len(sink.answers) == 2 for _, sink in streams) and time.monotonic() < begin + 30:
        time.sleep(0.005)
    assert LONGEST_PAUSE / 2 < time.monotonic() - begin < shared
    delivery.close()


def test_streams_that_began_at_different_times_are_sent_to_together() -> None:
    told: list[int] = []
    streams = [live(number) for number in range(20)]
    delivery = Delivery(
        lambda request: None,
        lambda request, fault: None,
        lambda: told.append(sum(len(sink.answers) for _, sink in streams)),
    )
    for stream in streams:
        delivery.deliver([token(stream[0])])
        time.sleep(0.001)
    time.sleep((20 - FREELY_SENT) / SENT_PER_SECOND)  # all may be sent to: one turn for all from now on
    for expected in (40, 60):
        before = len(told)
        deadline = time.monotonic() + 30
        while told[-1] < expected and time.monotonic() < deadline:
            delivery.put([token(request) for request, _ in streams])
            time.sleep(0.002)
        counts = {count for count in told[before:] if count > expected - 20}
        assert counts == {expected}
    delivery.close()


def test_a_defect_in_sending_on_ends_no_delivery() -> None:
    def broken() -> None:
        raise RuntimeError("the relay is broken")

    delivery = Delivery(lambda request: None, lambda request, fault: None, broken)
    request, sink = live(0)
    delivery.put([token(request)])
    delivery.put([token(request, FinishReason.LENGTH)])
    delivery.close()
    assert sink.ends == 1


def test_the_last_answer_does_not_wait() -> None:
    delivery, streams, ended = opened(50)
    delivery.deliver([token(request) for request, _ in streams])
    request, sink = streams[7]
    delivery.deliver([token(request), token(request, FinishReason.LENGTH)])
    assert sink.ends == 1
    assert ended.is_set()
    delivery.close()


def test_nor_does_one_that_a_stop_string_completes() -> None:
    delivery, streams, ended = opened(50)
    delivery.deliver([token(request) for request, _ in streams])
    request, sink = streams[7]
    delivery.deliver([token(request, token_id=STOP)])
    assert sink.ends == 1
    assert ended.is_set()
    delivery.close()


class Broken(Collector):
    """Takes nothing but the news of a failure."""

    def send(self, answer: Answer, *, final: bool) -> None:
        raise OSError("the other side is gone")


def test_closing_ends_every_request_that_was_held() -> None:
    delivery, streams, _ = opened(50)
    delivery.deliver([token(request) for request, _ in streams])
    broken = []
    for request, _ in streams:
        request.sink = sink = Broken()
        broken.append(sink)
    delivery.deliver([token(request) for request, _ in streams])
    delivery.close()
    assert [sink.ends for sink in broken] == [1] * 50
